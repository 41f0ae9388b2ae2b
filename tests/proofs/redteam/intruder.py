"""An attacker with an agent's credentials, who bypasses the client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.connection import Connection

from keyleash.store.keyspace import Keyspace

Word = str | bytes | int
PATIENCE_S = 60
"""How long a reply is waited for; no attempt blocks."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """
    All that an agent is given, and the little that everybody may know.

    Attributes:
        port: Of the server.
        user, password: The Redis user of all agents; behind a gateway its token is the password.
        identity, token: Its own.
        own: A key that it may use, by the name that it knows.
        others: The identity beside it, and names of keys that it may not use.
    """

    port: int
    user: str | None
    password: str | None
    identity: str
    token: str
    own: str
    other_identity: str
    other_key: str


@dataclass
class Intruder:
    """A connection of the attacker.

    Attributes:
        replies: Every reply so far, as bytes; of an error its text.
        errors: For every reply whether it was an error.
        lost: How often the server closed the connection, or did not answer in time.
    """

    holds: Holdings
    replies: list[bytes] = field(default_factory=list)
    errors: list[bool] = field(default_factory=list)
    lost: int = 0
    _connection: Connection | None = None
    _record: dict[bytes, bytes] | None = None

    def say(self, *words: Word) -> Any:
        """Send a command and return the reply, an error as its text in bytes."""
        try:
            connection = self._open()
            self._send(connection, words)
            return self._heard(connection.read_response(disable_decoding=True, push_request=True))
        except redis.exceptions.NoPermissionError as error:
            # Without its code it would be one error of many.
            return self._heard(f"NOPERM {error}".encode(), is_error=True)
        except redis.ResponseError as error:
            return self._heard(str(error).encode("utf-8", "surrogateescape"), is_error=True)
        except redis.AuthenticationError as error:
            text = str(error)
            return self._heard(
                (text if text.startswith("LEASH ") else f"NOAUTH {text}").encode(), is_error=True
            )
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            self.lost += 1
            self.hang_up()
            return None

    def hear(self) -> Any:
        """Wait for something that the server says by itself."""
        try:
            return self._heard(self._open().read_response(disable_decoding=True, push_request=True))
        except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError, OSError):
            self.hang_up()
            return None

    def call(
        self,
        *command: Word,
        keys: Sequence[Word] | None = None,
        token: str | None = None,
        correlation: Word = "intruder",
        digest: bytes | str | None = None,
    ) -> Any:
        """Call a guard, by default its own; by default the second word is the key."""
        declared = list(command[1:2]) if keys is None else list(keys)
        script = self.record[b"digest"] if digest is None else digest
        header = (self.holds.token if token is None else token, correlation)
        return self.say(*self.head(script), len(declared), *declared, *header, *command)

    def batch(self, *commands: Sequence[Word], mode: str = "all", keys_each: int = 1) -> Any:
        """Call its own guard with a batch; the first words after each name are its keys."""
        items = [word for command in commands for word in (len(command), *command)]
        keys = [word for command in commands for word in command[1 : 1 + keys_each]]
        header = (self.holds.token, "intruder", mode)
        return self.say(*self.head(self.record[b"batch_digest"]), len(keys), *keys, *header, *items)

    def delegate(
        self, *words: Word, token: str | None = None, child: Word = "0" * 40, ttl: Word = ""
    ) -> Any:
        """Ask its own guard for a child of a token."""
        header = (self.holds.token if token is None else token, "intruder", "delegate")
        return self.say(*self.head(self.record[b"batch_digest"]), 0, *header, child, ttl, *words)

    def head(self, digest: bytes | str, suffix: str = "") -> tuple[str, str]:
        """The words with which a call of a script begins, of a digest."""
        sha1 = digest.decode() if isinstance(digest, bytes) else digest
        return "EVALSHA" + suffix, sha1

    @property
    def record(self) -> dict[bytes, bytes]:
        """Its own guard record, which everybody may read."""
        if self._record is None:
            self._record = self.record_of(self.holds.identity)
        return self._record

    def record_of(self, identity: str) -> dict[bytes, bytes]:
        """The guard record of an identity, as far as it can be read."""
        reply = self.say("HGETALL", Keyspace().guard(identity))
        return dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else {}

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def forget(self) -> None:
        """Begin a new attempt: earlier replies do not count."""
        self.hang_up()
        self.replies.clear()
        self.errors.clear()
        self.lost = 0

    def _send(self, connection: Connection, words: Sequence[Word]) -> None:
        connection.send_command(*words, check_health=False)

    def _open(self) -> Connection:
        if self._connection is None:
            holds = self.holds
            self._connection = Connection(
                port=holds.port, username=holds.user, password=holds.password,
                protocol=2, socket_timeout=PATIENCE_S, driver_info=None,
            )  # fmt: skip
            self._connection.connect()
        return self._connection

    def _heard(self, reply: Any, *, is_error: bool = False) -> Any:
        if isinstance(reply, Exception):
            # One of many in a reply.
            reply, is_error = str(reply).encode("utf-8", "surrogateescape"), True
        self.replies.append(flat(reply))
        self.errors.append(is_error)
        return reply


def flat(reply: Any) -> bytes:
    """All that a reply says, in a row."""
    match reply:
        case bytes():
            return reply
        case dict():
            return b" ".join(flat(part) for pair in reply.items() for part in pair)
        case list() | tuple() | set():
            return b" ".join(map(flat, reply))
        case _:
            return str(reply).encode("utf-8", "surrogateescape")
