"""What a client keeps between calls, and how it heals; shared by sync and async.

Only two answers are healed, since both say that nothing has run: NOSCRIPT (the server
lost the script) and POLICY_STALE (another policy became active).
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoScriptError

from keyleash.client.correlation import correlation_source
from keyleash.commands import load_table
from keyleash.errors import DigestMismatchError, NotActiveError, TokenUnknownError
from keyleash.protocol.active import GuardRecord, guard_record
from keyleash.protocol.keyspace import Keyspace, script_digest
from keyleash.protocol.learned import learned_table
from keyleash.protocol.request import Argument, guard_call
from keyleash.protocol.token import identity_of

_BIG_INTEGERS = frozenset({"INCR", "INCRBY", "DECR", "DECRBY", "HINCRBY"})


class Session:
    """A token, the identity it names, and the guard that is called for it.

    Raises:
        TokenUnknownError: the token has not the shape of one.
    """

    def __init__(self, token: str) -> None:
        self.identity = identity_of(token)
        if not token.isascii():
            # No token is. One that cannot be encoded would stand in the encoder's exception.
            raise TokenUnknownError({"identity": self.identity})
        self.guard: GuardRecord | None = None
        self._token = token
        self._table = load_table()
        self._next_correlation = correlation_source()
        self._keyspace = Keyspace()

    def request(self, command: tuple[Argument, ...], protocol: int | str) -> list[Argument]:
        """The EVALSHA call for *command*; the guard must have been found before."""
        assert self.guard is not None  # noqa: S101 - callers look it up first
        return guard_call(
            self._table,
            self.guard.digest,
            self._token,
            self._next_correlation(),
            str(protocol),
            command,
        )

    def record_request(self) -> tuple[str, str]:
        """The plain command that fetches the identity's guard record."""
        return "HGETALL", self._keyspace.guard(self.identity)

    def accept_record(self, raw: Any) -> GuardRecord:
        """Remember the guard that a reply to `record_request` names.

        Raises:
            NotActiveError: there is no record: the identity is in no active policy.
        """
        fields = raw if isinstance(raw, dict) else dict(zip(raw[::2], raw[1::2], strict=True))
        record = guard_record(fields)
        if record is None:
            # The old guard stays, since other threads may be about to call it; it refuses.
            raise NotActiveError(
                {"identity": self.identity}, help="load a policy that has this identity"
            )
        # The table first: other threads take both as they come.
        self._table = learned_table(record.commands)
        self.guard = record
        return record

    def source_request(self) -> tuple[str, str, str]:
        """The plain command that fetches the recorded text of the guard."""
        assert self.guard is not None  # noqa: S101 - a call was made with it
        return "HGET", self._keyspace.source(self.identity), self.guard.digest

    def accept_source(self, raw: bytes | None, lost: NoScriptError) -> str:
        """The text to load again, once its digest was compared.

        Raises:
            NoScriptError: there is no recorded text.
            DigestMismatchError: the text is not the guard's: somebody changed it.
        """
        if raw is None:
            raise lost
        assert self.guard is not None  # noqa: S101 - a call was made with it
        script = raw.decode("latin-1")
        if not script.isascii() or script_digest(script) != self.guard.digest:
            raise DigestMismatchError(
                f"the recorded script of `{self.identity}` does not have the digest of its guard",
                help="load the policy again, and look for who wrote to the source record",
            )
        return script

    @staticmethod
    def finished(command: str | bytes, response: Any) -> Any:
        """The response as redis-py would give it: an integer too long for Lua came as text."""
        if isinstance(response, bytes | str):
            # As redis-py takes it: in any case, and perhaps with the key behind it.
            name = command if isinstance(command, str) else command.decode("latin-1")
            if name.split(None, 1)[0].upper() in _BIG_INTEGERS:
                return int(response)
        return response
