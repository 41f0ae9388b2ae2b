"""Pipeline WAIT after a write, and check how many replicas acknowledged it.

A script cannot wait. WAIT covers the writes of its own connection, so it is sent on the
connection of the call, in the same packet, without a further round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum, auto
from typing import Any

from hiredis import pack_command
from redis.exceptions import DataError, RedisError, ResponseError

from keyleash.client.flow import BatchCall, Flow, NothingYet, Retry
from keyleash.errors import NotReplicatedError
from keyleash.store.records import GuardRecord
from keyleash.store.wire import Argument

LOST = (RedisError, OSError)


class Read(Enum):
    """Read one more reply from the current connection."""

    REPLY = auto()


class WaitConnection:
    """A connection, sync or async, that sends WAIT after the call."""

    __slots__ = ("_connection", "_wait", "_wait_s", "is_sent")

    def __init__(self, connection: Any, guard: GuardRecord) -> None:
        self._connection = connection
        words: tuple[Any, ...] = ("WAIT", guard.wait_replicas, guard.wait_ms)
        self._wait = pack_command(words)
        self._wait_s = guard.wait_ms / 1000
        self.is_sent = False

    def send_packed_command(self, parts: list[bytes]) -> Any:
        self.is_sent = True
        return self._connection.send_packed_command([b"".join((*parts, self._wait))])

    def read_wait_reply(self) -> Any:
        """Read the reply to WAIT, with the timeout extended by that of WAIT."""
        timeout_s = self._connection.socket_timeout
        if timeout_s is None:
            return self._connection.read_response()
        return self._connection.read_response(timeout=timeout_s + self._wait_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def call_with_replicas(
    wait_connection: WaitConnection, guard: GuardRecord, has_written: Callable[[Any], bool]
) -> Flow:
    """Make a call, and require the number of replicas that the identity's policy sets.

    Args:
        has_written: Returns whether the call wrote anything, given its outcome.

    Raises:
        NotReplicatedError: the call ran, and too few replicas have it, or that is unknown.
    """
    try:
        outcome = yield Retry.AGAIN
    except (ResponseError, DataError, NothingYet):
        # Nothing was written. The reply to WAIT must not be read by the next call.
        if wait_connection.is_sent:
            with suppress(*LOST):
                yield Read.REPLY
        raise
    try:
        replicas = yield Read.REPLY
    except LOST as error:
        if not has_written(outcome):
            return outcome
        # Not a connection error: the call was answered, and callers must not repeat it.
        raise NotReplicatedError(outcome, None, guard.wait_replicas, guard.wait_ms) from error
    if replicas < guard.wait_replicas and has_written(outcome):
        raise NotReplicatedError(outcome, replicas, guard.wait_replicas, guard.wait_ms)
    return outcome


def commands_of(asked: Any) -> Iterator[tuple[Argument, ...]]:
    """Yield the commands of a request: one command, a batch, or coalesced calls."""
    match asked:
        case tuple():
            yield asked
        case BatchCall():
            yield from asked.words
        case _:
            for call in asked:
                for words, _ in call.commands:
                    yield words
