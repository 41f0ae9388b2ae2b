"""What a client keeps between calls, and what requests and replies mean; no input or output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from redis.client import EMPTY_RESPONSE
from redis.exceptions import (
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    ResponseError,
)

from keyleash.client._redis_py import InHand
from keyleash.client.correlation import next_correlation
from keyleash.client.flow import BatchCall
from keyleash.commands import CommandTable, load_table
from keyleash.commands.facts import CONTAINER, NOT_NAMED
from keyleash.errors import (
    CallNotPermittedError,
    ClusterError,
    CommandRefusedError,
    KeyleashError,
    LeashError,
    NotActiveError,
    OperationError,
    RightMissingError,
    TokenUnknownError,
)
from keyleash.store.keyspace import Keyspace, script_digest
from keyleash.store.records import GuardRecord, guard_record, learned_table
from keyleash.store.token import identity_of
from keyleash.store.wire import (
    NOT_FOUND,
    Argument,
    BatchMode,
    Transport,
    batch_call,
    call_head,
    guard_call,
    is_of_a_cluster,
    library_code,
    may_write,
    reading_reply,
    refusal,
)

_COMMAND_NOT_PERMITTED = re.compile(r"no permissions to run the '([^']+)'")
_SCRIPT_NOT_PERMITTED = "ACL failure in script: "
_BIG_INTEGERS = frozenset({"INCR", "INCRBY", "DECR", "DECRBY", "HINCRBY"})


class Session:
    """A token, the identity it names, and the guard that is called for it.

    Raises:
        TokenUnknownError: the token has not the shape of one.
        TypeError: it is no text.
    """

    def __init__(self, token: str) -> None:
        if not isinstance(token, str):
            # Often an environment variable that is not set.
            raise TypeError(f"the token must be a str, not {type(token).__name__}")
        self.identity = identity_of(token)
        if not token.isascii():
            # No token is. One that cannot be encoded would stand in the encoder's exception.
            raise TokenUnknownError({"identity": self.identity})
        self.guard: GuardRecord | None = None
        self._token = token
        self._table = load_table()
        self._keyspace = Keyspace()
        self._knows_functions = False

    # Requests.

    def request(
        self, command: tuple[Argument, ...], protocol: int | str, correlation: str | None = None
    ) -> tuple[Argument, ...]:
        """The call of the guard for *command*; the guard must have been found before.

        Args:
            correlation: Its id, if not that of the block that this is called in.
        """
        guard = self.guard
        assert guard is not None  # noqa: S101 - callers look it up first
        return guard_call(
            self._table,
            guard.digest,
            self._token,
            next_correlation() if correlation is None else correlation,
            protocol,
            command,
            guard.transport,
        )

    def batch_request(
        self,
        mode: BatchMode,
        commands: Sequence[tuple[Argument, ...]],
        protocol: int | str,
        correlation: str | None = None,
    ) -> tuple[Argument, ...]:
        """The call of the guard for a batch; the rest as for `request`."""
        guard = self.guard
        assert guard is not None  # noqa: S101 - callers look it up first
        return batch_call(
            self._table,
            guard.batch_digest,
            self._token,
            next_correlation() if correlation is None else correlation,
            protocol,
            mode,
            commands,
            guard.transport,
        )

    # Replies.

    def understood(self, error: ResponseError) -> ResponseError:
        """The typed refusal that an error reply is, else the error itself."""
        refused = refusal(str(error))
        if refused is None:
            return self._of_the_server(error)
        if isinstance(refused, CommandRefusedError):
            return _with_reason(refused, self._table)
        return refused

    def _of_the_server(self, error: ResponseError) -> ResponseError:
        """What an error is that no guard has raised."""
        if is_of_a_cluster(error):
            return ClusterError()
        said = str(error)
        command = _COMMAND_NOT_PERMITTED.search(said)
        name = command[1] if command else ""
        if said.startswith(_SCRIPT_NOT_PERMITTED):
            of_a_key = "access a key" in said
            keys = self._keyspace.control_patterns(self.identity) if of_a_key else ()
            return RightMissingError(self.identity, name and f"+{name}", said, keys)
        # A guard itself runs neither, so it is the call of the guard that was denied. Of other
        # commands it is the agent's own, whose error is as without a guard.
        if isinstance(error, NoPermissionError) and name.partition("|")[0] in ("evalsha", "fcall"):
            return CallNotPermittedError({"identity": self.identity, "reason": said})
        return error

    def call_right_missing(self, error: CallNotPermittedError, kind: str) -> RightMissingError:
        """The error that reports the rule by which a user may call the guard of the record.

        Args:
            kind: The field of the record that names the script.
        """
        guard = self.guard
        assert guard is not None  # noqa: S101 - it was looked up
        command, first = call_head(guard.transport, getattr(guard, kind))
        right = f"+{command.lower()}|{first}"
        return RightMissingError(self.identity, right, error.details.get("reason", ""))

    def record_unread(self, error: ResponseError) -> ResponseError:
        """What the error reply to `record_request` is."""
        if isinstance(error, NoPermissionError):
            command, record = self.record_request()
            right = "+" + command.lower() if "command" in str(error) else f"%R~{record}"
            return RightMissingError(self.identity, right, str(error))
        return self._of_the_server(error)

    def lost(self, error: ResponseError) -> NoScriptError | None:
        """The error that says that the server lacks the script, if the reply to a call is that.

        It is not for what a batch answers about one of its commands: the others have run.
        """
        # That there were functions once is enough: another thread may have learned meanwhile
        # that there are none any more. No command that a guard runs has such an error.
        if self._knows_functions and str(error) == NOT_FOUND:
            return NoScriptError(str(error))
        return error if isinstance(error, NoScriptError) else None

    def outcome(self, error: ResponseError) -> ResponseError:
        """What the error reply to a call is: a lost script, a refusal, or the error itself."""
        return self.lost(error) or self.understood(error)

    def instead(self, error: ResponseError, options: dict[str, Any]) -> Any:
        """What redis-py gives for an error reply: the stand-in that *options* have, if any.

        Raises:
            ResponseError: there is none, or the error is a refusal or a lost script, which
                must not be taken for an empty reply.
        """
        understood = self.outcome(error)
        if EMPTY_RESPONSE not in options or isinstance(understood, LeashError | NoScriptError):
            raise understood from None
        return options[EMPTY_RESPONSE]

    def waits_for(self, commands: Iterable[tuple[Argument, ...]]) -> GuardRecord | None:
        """The guard, if one of *commands* may write, and replicas are to have that."""
        guard = self.guard
        if guard is None or not guard.wait_replicas or not any(map(self.may_write, commands)):
            return None
        return guard

    def stands(self, asked: Any, outcome: Any) -> bool:
        """Whether a call that was answered left anything that a replica could lack."""
        if not isinstance(asked, BatchCall):
            return True
        # Of a batch, each command may have been refused, or have failed.
        return any(
            isinstance(answer, InHand) and not answer.is_error and self.may_write(words)
            for answer, words in zip(outcome, asked.words, strict=True)
        )

    def may_write(self, words: tuple[Argument, ...]) -> bool:
        """Whether others may see what a command did."""
        return may_write(self._table, words)

    def answers(self, count: int, reply: Any, encoder: Any) -> list[InHand | KeyleashError]:
        """What each command of a batch was answered: a reply for redis-py's parser, or a refusal.

        Args:
            count: Of its commands.
            encoder: Decodes replies that were read without decoding; None if they were not.

        Raises:
            InvalidResponse: there is not one answer for each.
        """
        if not isinstance(reply, list) or len(reply) != count:
            raise InvalidResponse("the batch was not answered command by command")
        return [
            self.refused(item) if isinstance(item, ResponseError) else InHand(item, encoder)
            for item in reply
        ]

    def refused(self, error: ResponseError) -> InHand | KeyleashError:
        """The refusal that an error reply is, else the error as a reply for redis-py's parser."""
        try:
            understood = self.understood(error)
        except KeyleashError as unknown:
            # It must not take the other answers along.
            return unknown
        return understood if isinstance(understood, LeashError) else InHand(understood)

    @staticmethod
    def finished(command: str | bytes, response: Any) -> Any:
        """The response as redis-py would give it: an integer too long for Lua came as text."""
        if isinstance(response, bytes | str) and _counts(command):
            # A callback of the user's own may have made other text of it.
            with suppress(ValueError):
                return int(response)
        return response

    # Healing.

    def record_request(self) -> tuple[str, str]:
        """The plain command that fetches the identity's guard record."""
        return "HGETALL", self._keyspace.guard(self.identity)

    def accept_record(self, raw: Any) -> GuardRecord:
        """Remember the guard that a reply to `record_request` names.

        Raises:
            NotActiveError: there is no record: the identity is in no active policy.
        """
        with reading_reply("HGETALL"):
            fields = raw if isinstance(raw, dict) else dict(zip(raw[::2], raw[1::2], strict=True))
        record = guard_record(fields)
        if record is None:
            # The old guard stays, since other threads may be about to call it; it refuses.
            raise NotActiveError(
                {"identity": self.identity}, help="load a policy that has this identity"
            )
        # The table first: other threads take both as they come.
        self._table = learned_table(record.commands)
        self._knows_functions |= record.transport is Transport.FUNCTION
        self.guard = record
        return record

    def source_request(self, digest: str) -> tuple[str, str, str]:
        """The plain command that fetches the recorded text of a script."""
        return "HGET", self._keyspace.source(self.identity), digest

    def accept_source(self, raw: bytes | None, lost: Exception, digest: str) -> str:
        """The text to load again, once its digest was compared.

        Raises:
            NoScriptError: there is no recorded text; it is *lost*.
            OperationError (digest-mismatch): the text is not that script's: somebody changed it.
        """
        if raw is None:
            raise lost
        with reading_reply("HGET"):
            script = raw.decode("latin-1")
        if not script.isascii() or script_digest(script) != digest:
            raise OperationError(
                "digest-mismatch",
                f"the recorded script of `{self.identity}` does not have the digest of its guard",
                help="load the policy again, and look for who wrote to the source record",
            )
        return script

    def load_request(self, transport: Transport, digest: str, script: str) -> tuple[str, ...]:
        """The plain command that loads a script again."""
        if transport is Transport.FUNCTION:
            # Another client may have been faster.
            return "FUNCTION", "LOAD", "REPLACE", library_code(self.identity, digest, script)
        return "SCRIPT", "LOAD", script


@lru_cache(maxsize=512)
def _counts(command: str | bytes) -> bool:
    """Whether a command's reply is an integer that may be too long for Lua."""
    # As redis-py takes it: in any case, and perhaps with the key behind it.
    name = command if isinstance(command, str) else command.decode("latin-1")
    return name.split(None, 1)[0].upper() in _BIG_INTEGERS


def _with_reason(refused: CommandRefusedError, table: CommandTable) -> CommandRefusedError:
    """The refusal with what the table has against the command."""
    details = refused.details
    words: Sequence[str] = details.get("command", "").split(" ", 1)
    spec = table.get(details.get("command", "")) or table.get(words[0])
    if "reason" in details:
        return refused
    if spec is None:
        reason = "no server that keyleash knows has it"
    elif words[0] in table.containers and spec.name != details["command"] and words[1]:
        reason = "no server that keyleash knows has that sub-command"
    elif spec.refused == CONTAINER and len(words) == 1:
        # The guard names a sub-command only of a container of which it knows some.
        reason = "the grants leave out its sub-commands, or none is named"
    elif spec.refused is not None:
        reason = spec.refused
    elif len(words) == 2 and spec.name.startswith("BITFIELD"):
        reason = "a script would round such an integer"
    elif len(words) == 2 and words[1] in spec.refused_if:
        reason = f"with {words[1]} it reaches keys beyond those that it names"
    elif len(words) == 2 and spec.name != details["command"]:
        reason = f"a guard does not know `{words[1]}`"
    elif spec.named_only:
        reason = NOT_NAMED
    else:
        reason = "the grants leave it out, or the server lacks it"
    return CommandRefusedError({**details, "reason": reason})
