"""The state of a client between calls, its requests and its replies, without I/O."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from keyleash.client.actions import AtHome, Unguarded, Words
from keyleash.client.command_words import ScriptCall, script_item, split_words
from keyleash.client.correlation import CorrelationSource, check_source
from keyleash.client.delegation import Delegation
from keyleash.client.once import current_block
from keyleash.client.renewal import Renewal, Schedule, read_renewal
from keyleash.client.tokens import AsyncTokenSource
from keyleash.client.whoami import WhoAmI, read_whoami
from keyleash.commands import load_table
from keyleash.commands.refusals import with_reason
from keyleash.errors import (
    ClusterError,
    CommandRefusedError,
    NotActiveError,
    OperationError,
    PolicyStaleError,
    RightMissingError,
    TokenExpiredError,
    TokenRevokedError,
    TokenUnknownError,
)
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import GuardRecord, guard_record, learned_table, script_of
from keyleash.store.token import identity_of
from keyleash.store.wire import (
    READ_ONLY,
    Argument,
    BatchMode,
    declared_keys,
    delegation_words,
    guard_call,
    is_of_a_cluster,
    may_write,
    reading_reply,
    refusal,
    runs_call,
    script_call,
)

_COMMAND_NOT_PERMITTED = re.compile(r"no permissions to run the '([^']+)'")
_SCRIPT_NOT_PERMITTED = "ACL failure in script: "
TOKEN_OVER = (TokenExpiredError, TokenRevokedError)
"""The denials after which a callable is asked for another token."""
_BIG_INTEGERS = frozenset({"INCR", "INCRBY", "DECR", "DECRBY", "HINCRBY"})


class Session:
    """A token, the identity it names, and the guard that is called for it.

    Args:
        token: The token, or a callable that returns it.
        is_async: Whether the callable may return an awaitable; it is then called at the first
            use, else at once.
        correlation: The correlation id of calls outside of blocks, or a callable that returns it.

    Attributes:
        source: The token or its callable, as given.
        correlation: As given.
        recoverable: The errors after which a call is repeated: nothing ran.
        at_home: The action that sends a command to where the records are.
        schedule: When the token is renewed; None if it is no callable's, whose caller renews it.

    Raises:
        TokenUnknownError: the token has not the shape of one.
        TypeError: it is not a str, or *correlation* is neither a str nor callable.
        SecretInTextError: *correlation* contains a token.
    """

    at_home: ClassVar[type[Unguarded | AtHome]] = Unguarded

    def __init__(
        self,
        token: AsyncTokenSource,
        *,
        is_async: bool = False,
        correlation: CorrelationSource | None = None,
    ) -> None:
        self.correlation = check_source(correlation)
        self.identity = ""
        self.guard: GuardRecord | None = None
        self.source = token
        self.recoverable: tuple[type[ResponseError], ...] = (PolicyStaleError, NoScriptError)
        self.table = load_table()
        self._keyspace = Keyspace()
        self.schedule = Schedule() if callable(token) else None
        if not callable(token):
            self.accept_token(token)
            return
        self.recoverable += TOKEN_OVER
        if not is_async:
            self.accept_token(token())

    def accept_token(self, token: Any) -> None:
        """Use *token* from now on.

        Raises:
            TokenUnknownError: it has not the shape of a token.
            TypeError: it is not a str.
            OperationError (other-identity): it names another identity than the one before.
        """
        if not isinstance(token, str):
            # Often the value of an environment variable that is not set.
            kind = type(token).__name__
            if inspect.iscoroutine(token):
                token.close()
                kind = "coroutine: use `keyleash.asyncio.Redis`"
            raise TypeError(f"the token must be a str, not {kind}")
        identity = identity_of(token)
        if not token.isascii():
            # Tokens are ASCII. Otherwise the encoder's exception could contain it.
            raise TokenUnknownError({"identity": identity})
        if self.identity not in ("", identity):
            # Error reports may show local variables.
            del token
            raise OperationError(
                "other-identity",
                f"the new token is one of `{identity}`, not of `{self.identity}`",
                help="make another client for it",
            )
        self._token = token
        self.identity = identity
        if self.schedule is not None:
            self.schedule.reset()

    @property
    def lacks_guard(self) -> bool:
        """Return whether the record of the guard is to be fetched before a call.

        Also if it takes no ids, and the call may have one: another policy may be active by now.
        """
        guard = self.guard
        return guard is None or (not guard.takes_ids and current_block() is not None)

    # Requests; the guard must be known.

    def request(self, guard: GuardRecord, command: Words, correlation: str) -> Words:
        """Return the call of *guard* for *command*."""
        return guard_call(self.table, guard.digest, self._token, correlation, command)

    def batch_request(
        self, mode: BatchMode, commands: Sequence[Words], correlation: str, *, has_id: bool = False
    ) -> tuple[Words, Sequence[int]]:
        """Return the call of the guard for a batch, and the shape of its reply.

        With an id it has no runs, since the same batch must be the same words to a guard that takes
        none.
        """
        guard = self._called
        header = self.table, guard.batch_digest, self._token, correlation
        return runs_call(*header, mode, commands, takes_runs=guard.takes_runs and not has_id)

    def transaction_request(self, mode: str, commands: Sequence[Words], correlation: str) -> Words:
        """Return the call of the guard for a transaction with scripts."""
        guard, keys, items = self._called, list[Argument](), list[Argument]()
        for command in commands:
            words = split_words(command)
            words, own = script_item(guard, words) or (words, declared_keys(self.table, words))
            keys += own
            items += (str(len(words)), *words)
        head = "EVALSHA", guard.approved_digest or guard.batch_digest, str(len(keys)), *keys
        return (*head, self._token, correlation, mode, *items)

    def script_request(self, script: ScriptCall, correlation: str, *, is_check: bool) -> Words:
        """Return the call of the guard for an approved script, or the question if it may run."""
        name = script.digest + READ_ONLY * script.is_read_only + BatchMode.CHECK * is_check
        header = self._called.approved_digest, self._token, correlation
        return script_call(*header, name, script.keys, script.arguments)

    def delegate_request(self, child: Delegation, correlation: str) -> tuple[Argument, ...]:
        """Return the call of the guard that makes a child of the token."""
        header = ("EVALSHA", self._called.batch_digest, "0", self._token, correlation)
        digest = child.digest_for(self.identity)
        return (*header, *delegation_words(digest, child.ttl_s, child.words))

    @property
    def _called(self) -> GuardRecord:
        assert self.guard is not None  # noqa: S101 - callers look it up first
        return self.guard

    # Replies.

    def typed_error(self, error: ResponseError) -> ResponseError:
        """Return the typed denial of an error reply, else the error itself."""
        denial = refusal(str(error))
        if denial is None:
            return self._server_error(error)
        if isinstance(denial, CommandRefusedError):
            denial = denial.with_details(with_reason(self.table, denial.details))
        denial.identity = self.identity
        return denial

    def _server_error(self, error: ResponseError) -> ResponseError:
        """Return the typed error of an error reply that no guard sent."""
        if is_of_a_cluster(error):
            return ClusterError()
        message = str(error)
        command = _COMMAND_NOT_PERMITTED.search(message)
        name = command[1] if command else ""
        if message.startswith(_SCRIPT_NOT_PERMITTED):
            of_a_key = "access a key" in message
            keys = self._keyspace.control_patterns(self.identity) if of_a_key else ()
            return RightMissingError(self.identity, name and f"+{name}", message, keys)
        # A guard runs neither command, so the server denied the call of the guard. For other
        # commands it denied the agent's own command: the error is as without a guard.
        if isinstance(error, NoPermissionError) and name.partition("|")[0] == "evalsha":
            return RightMissingError(self.identity, f"+{name}", message)
        return error

    def lookup_error(self, error: ResponseError, key: str) -> ResponseError:
        """Return the typed error of an error reply to a lookup of *key*, or to SCRIPT LOAD."""
        if isinstance(error, NoPermissionError):
            command = _COMMAND_NOT_PERMITTED.search(str(error))
            right = f"+{command[1]}" if command else f"%R~{key}"
            return RightMissingError(self.identity, right, str(error))
        return self._server_error(error)

    def may_write(self, words: tuple[Argument, ...]) -> bool:
        """Return whether a command may write."""
        return may_write(self.table, words)

    def is_topology(self, words: tuple[Argument, ...]) -> bool:
        """Return whether a command asks a node of a cluster about its nodes."""
        return False

    def whoami(self, reply: Any) -> WhoAmI:
        """Return what the reply to a batch in mode `whoami` says.

        Raises:
            UnexpectedReplyError: it is malformed.
        """
        return read_whoami(self.identity, self._called, reply)

    def renewal(self, reply: Any) -> Renewal:
        """Return what the reply to a batch in mode `renew` says.

        Raises:
            UnexpectedReplyError: it is malformed.
        """
        if self.schedule is not None:
            self.schedule.reset()
        return read_renewal(self.identity, reply)

    # Recovery.

    def record_request(self) -> tuple[str, str]:
        """Return the command that fetches the identity's guard record."""
        return "HGETALL", self._keyspace.guard(self.identity)

    def accept_record(self, raw: Any) -> GuardRecord:
        """Store the guard that a reply to `record_request` names.

        Raises:
            NotActiveError: there is no record: the identity is in no active policy.
        """
        with reading_reply("HGETALL"):
            fields = raw if isinstance(raw, dict) else dict(zip(raw[::2], raw[1::2], strict=True))
        record = guard_record(fields)
        if record is None:
            # Keep the old guard, which other threads may be about to call; it denies.
            raise NotActiveError({"identity": self.identity})
        # The table first, since other threads read both without a lock.
        self.table = learned_table(record.commands)
        self.guard = record
        return record

    def source_request(self, digest: str) -> tuple[str, str, str]:
        """Return the command that fetches the stored source of a script."""
        return "HGET", self._keyspace.source(self.identity), digest

    def accept_source(self, raw: bytes | None, lost: Exception, digest: str) -> str:
        """Return the source to load again, after comparing its digest.

        Raises:
            NoScriptError: there is no stored source; the error is *lost*.
            OperationError (digest-mismatch): the source was changed.
        """
        if raw is None:
            raise lost
        with reading_reply("HGET"):
            script = script_of(raw, digest)
        if script is None:
            raise OperationError(
                "digest-mismatch",
                f"the recorded script of `{self.identity}` does not have the digest of its guard",
                help="load the policy again, and find out who wrote to the source record",
            )
        return script


@lru_cache(maxsize=512)
def counts(command: str | bytes) -> bool:
    """Return whether a command's reply is an integer that may be too long for Lua."""
    # As redis-py accepts it: in any case, and possibly with the key in the name.
    name = command if isinstance(command, str) else command.decode("latin-1")
    return name.split(None, 1)[0].upper() in _BIG_INTEGERS
