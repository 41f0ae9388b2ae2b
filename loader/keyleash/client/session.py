"""The state of a client between calls, its requests and its replies, without I/O."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, ClassVar

from redis.exceptions import (
    NoPermissionError,
    NoScriptError,
    ResponseError,
)

from keyleash.client.actions import AtHome, Plain
from keyleash.client.correlation import CorrelationSource, check_source
from keyleash.client.delegation import Delegation
from keyleash.client.once import current_block
from keyleash.client.renewal import RENEW, Renewal, Schedule, read_renewal
from keyleash.client.tokens import AsyncTokenSource
from keyleash.client.whoami import WhoAmI, read_whoami
from keyleash.commands import CommandSpec, CommandTable, load_table
from keyleash.commands.facts import (
    CONTAINER,
    NEEDS_ALL_KEYS,
    NO_SERVER_HAS,
    NOT_NAMED,
    PATHS,
    SCRIPTS,
    TOO_MANY_PATHS,
    UNCHECKED,
    is_unchecked,
    why_unknown,
)
from keyleash.errors import (
    CallNotPermittedError,
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
from keyleash.store.keyspace import Keyspace, script_digest
from keyleash.store.records import GuardRecord, guard_record, learned_table
from keyleash.store.token import identity_of
from keyleash.store.wire import (
    READ_ONLY,
    Argument,
    BatchMode,
    delegate_call,
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
NAME_IT = "name it in `only` of a grant, if the identity should have it"
NOT_ALLOWABLE = "no policy can allow it; docs/reference/commands.md lists the denied commands"
OF_A_MODULE = "no policy can allow it; docs/reference/policy.md lists such commands of modules"
_OF_MODES = {
    BatchMode.RENEW: (
        RENEW,
        "the policy does not let agents renew their tokens",
        "add `token: {renew: true}` to the identity, or have an operator renew it with `keyleash"
        " token renew ID`, which renews no child token",
    ),
    BatchMode.DELEGATE: (
        "DELEGATE",
        "the policy does not let tokens delegate",
        "add `delegate: {depth: 1}` to the identity, which also needs `token: {bound: true}`",
    ),
}
"""The command, the reason and the help of a batch in a mode that a guard does not have."""
APPROVE = (
    "add its text to `scripts` of the policy, and its name to `scripts` of a grant; every byte"
    " counts, also a last newline, and a changed text needs `keyleash load`"
)
_BIG_INTEGERS = frozenset({"INCR", "INCRBY", "DECR", "DECRBY", "HINCRBY"})


class Session:
    """A token, the identity it names, and the guard that is called for it.

    Args:
        token: The token, or a callable that returns it.
        is_async: Whether the callable may return an awaitable; it is then called at the first
            use, else at once.
        correlation: The correlation id of calls outside of blocks, or a callable that returns it.

    Attributes:
        token, correlation: As given.
        recoverable: The errors after which a call is repeated: nothing ran.
        at_home: The action that sends a command to where the records are.
        schedule: When the token is renewed; None if it is no callable's, whose caller renews it.

    Raises:
        TokenUnknownError: the token has not the shape of one.
        TypeError: it is not a str, or *correlation* is neither a str nor callable.
        SecretInTextError: *correlation* contains a token.
    """

    at_home: ClassVar[type[Plain | AtHome]] = Plain

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
        self.token = token
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

    def request(
        self, guard: GuardRecord, command: tuple[Argument, ...], correlation: str
    ) -> tuple[Argument, ...]:
        """Return the call of *guard* for *command*."""
        return guard_call(self.table, guard.digest, self._token, correlation, command)

    def batch_request(
        self,
        mode: BatchMode,
        commands: Sequence[tuple[Argument, ...]],
        correlation: str,
        *,
        has_id: bool = False,
    ) -> tuple[tuple[Argument, ...], Sequence[int]]:
        """Return the call of the guard for a batch, and the shape of its reply.

        With an id it has no runs, since the same batch must be the same words to a guard that takes
        none.
        """
        guard = self._called
        return runs_call(
            self.table,
            guard.batch_digest,
            self._token,
            correlation,
            mode,
            commands,
            takes_runs=guard.takes_runs and not has_id,
        )

    def script_request(
        self,
        script: str,
        keys: Sequence[Argument],
        arguments: Sequence[Argument],
        is_read_only: bool,
        correlation: str,
    ) -> tuple[Argument, ...]:
        """Return the call of the guard for an approved script."""
        guard = self._called
        header = guard.approved_digest, self._token, correlation
        mode = READ_ONLY if is_read_only else ""
        return script_call(*header, script + mode, keys, arguments)

    def delegate_request(self, child: Delegation, correlation: str) -> tuple[Argument, ...]:
        """Return the call of the guard that makes a child of the token."""
        guard = self._called
        return delegate_call(
            guard.batch_digest,
            self._token,
            correlation,
            child.digest_for(self.identity),
            child.ttl_s,
            child.words,
        )

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
            denial = _of_mode(denial) or _with_reason(denial, self.table)
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
            return CallNotPermittedError({"identity": self.identity, "reason": message})
        return error

    def call_right_missing(self, error: CallNotPermittedError, kind: str) -> RightMissingError:
        """Return the error that names the ACL rule without which the guard cannot be called.

        Args:
            kind: The field of the record that names the script.
        """
        right = f"+evalsha|{getattr(self._called, kind)}"
        return RightMissingError(self.identity, right, error.details.get("reason", ""))

    def record_error(self, error: ResponseError) -> ResponseError:
        """Return the typed error of an error reply to `record_request`."""
        if isinstance(error, NoPermissionError):
            command, record = self.record_request()
            right = "+" + command.lower() if "command" in str(error) else f"%R~{record}"
            return RightMissingError(self.identity, right, str(error))
        return self._server_error(error)

    def call_error(self, error: ResponseError) -> ResponseError:
        """Return the error of a call: a lost script, a denial, or the error itself.

        Not for the reply to one command of a batch: the others have run.
        """
        return error if isinstance(error, NoScriptError) else self.typed_error(error)

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
        guard = self._called
        return read_whoami(self.identity, guard, reply)

    def renewal(self, reply: Any) -> Renewal:
        """Return what the reply to a batch in mode `renew` says.

        Raises:
            UnexpectedReplyError: it is malformed.
        """
        if self.schedule is not None:
            self.schedule.reset()
        return read_renewal(self.identity, reply)

    @staticmethod
    def final_response(command: str | bytes, response: Any) -> Any:
        """Return the response as redis-py would: integers too long for Lua arrive as text."""
        if isinstance(response, bytes | str) and counts(command):
            # A response callback of the user may have returned other text.
            with suppress(ValueError):
                return int(response)
        return response

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
            raise NotActiveError(
                {"identity": self.identity}, help="load a policy that has this identity"
            )
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
            script = raw.decode("latin-1")
        if not script.isascii() or script_digest(script) != digest:
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


def unapproved(script: str, denial: CommandRefusedError) -> CommandRefusedError:
    """Return a denial with the digest of the script, and how to approve it."""
    reason = f"no grant approves the script {script}"
    details = {"command": "EVALSHA", **denial.details, "script": script, "reason": reason}
    found = CommandRefusedError(details, help=APPROVE)
    found.identity = denial.identity
    return found


def _of_mode(denial: CommandRefusedError) -> CommandRefusedError | None:
    """Return the denial of a mode that the policy does not give, or of an id without a key.

    None for others.
    """
    if denial.details.get("once") == "key":
        reason = "on a cluster a call with an id needs a key, in whose slot it is remembered"
        help = "make the call outside of the block"
        return CommandRefusedError({**denial.details, "reason": reason}, help=help)
    mode = denial.details.get("mode")
    if mode not in (BatchMode.RENEW, BatchMode.DELEGATE):
        return None
    command, reason, help = _OF_MODES[BatchMode(mode)]
    return CommandRefusedError({**denial.details, "command": command, "reason": reason}, help=help)


def _why_refused(spec: CommandSpec, argument: str) -> str | None:
    if argument == PATHS:
        return TOO_MANY_PATHS
    if spec.name.startswith("BITFIELD"):
        return "a script would round such an integer"
    return "a guard checks one channel at a time" if spec.subscribes else None


def _with_reason(denial: CommandRefusedError, table: CommandTable) -> CommandRefusedError:
    """Return the denial with the reason that the command table gives, and what to do."""
    details = denial.details
    words: Sequence[str] = details.get("command", "").split(" ", 1)
    spec = table.get(details.get("command", "")) or table.get(words[0])
    if "script" in details:
        return unapproved(details["script"], denial)
    if "reason" in details:
        return denial
    help = None
    if spec is None:
        reason = why_unknown(words[0])
        by_name = OF_A_MODULE if is_unchecked(words[0]) else NAME_IT
        help = by_name if reason == UNCHECKED else "check the name of the command"
    elif words[0] in table.containers and spec.name != details["command"] and words[1]:
        reason, help = f"{NO_SERVER_HAS} that sub-command", "check the name of the sub-command"
    elif spec.refused == CONTAINER and len(words) == 1:
        # The guard names a sub-command only of a container of which it knows some.
        reason = "the grants leave out its sub-commands, or none is named"
    elif spec.refused is not None:
        reason = spec.refused
        is_eval = reason == SCRIPTS and spec.name.startswith("EVAL")
        help = None if reason == CONTAINER else APPROVE if is_eval else NOT_ALLOWABLE
    elif len(words) == 2 and (found := _why_refused(spec, words[1])):
        reason = found
    elif len(words) == 2 and words[1] in (*spec.refused_if, *spec.patterns):
        beyond = f"with {words[1]} it reaches keys beyond those that it names"
        reason = NEEDS_ALL_KEYS if spec.patterns else beyond
        help = None if spec.patterns else NOT_ALLOWABLE
    elif len(words) == 2 and spec.name != details["command"]:
        reason = f"a guard does not know `{words[1]}`"
    elif spec.named_only:
        reason, help = NOT_NAMED, NAME_IT
    else:
        reason = "the grants leave it out, or the server lacks it"
    return CommandRefusedError({**details, "reason": reason}, help=help)
