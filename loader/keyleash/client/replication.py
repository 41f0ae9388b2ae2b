"""Waiting for replicas: WAIT travels behind a call, and tells who has what the call wrote.

No script can wait. WAIT is about the writes of its own connection, so it is sent on that of the
call, in the same packet, and costs no round trip of its own.
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
    """Read a further reply of the connection at hand."""

    REPLY = auto()


class Followed:
    """A connection, sync or async, on which WAIT follows the call that is sent."""

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

    def read_waited(self) -> Any:
        """Read what WAIT was answered, which may take as long as WAIT does."""
        timeout_s = self._connection.socket_timeout
        if timeout_s is None:
            return self._connection.read_response()
        return self._connection.read_response(timeout=timeout_s + self._wait_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def replicated(followed: Followed, guard: GuardRecord, stands: Callable[[Any], bool]) -> Flow:
    """Make a call, and require that as many replicas have it as the identity wants.

    Args:
        stands: Whether anything was done, by what the call gave.

    Raises:
        NotReplicatedError: the call was done, and they have not, or nobody knows.
    """
    try:
        outcome = yield Retry.AGAIN
    except (ResponseError, DataError, NothingYet):
        # Nothing was written that anybody waits for. Its reply must not be the next call's.
        if followed.is_sent:
            with suppress(*LOST):
                yield Read.REPLY
        raise
    try:
        replicas = yield Read.REPLY
    except LOST as error:
        if not stands(outcome):
            return outcome
        # The call was answered, so this is no lost call, which somebody might make again.
        raise NotReplicatedError(outcome, None, guard.wait_replicas, guard.wait_ms) from error
    if replicas < guard.wait_replicas and stands(outcome):
        raise NotReplicatedError(outcome, replicas, guard.wait_replicas, guard.wait_ms)
    return outcome


def commands_of(asked: Any) -> Iterator[tuple[Argument, ...]]:
    """The commands of what a connection is taken for: one, a batch, or what travels together."""
    match asked:
        case tuple():
            yield asked
        case BatchCall():
            yield from asked.words
        case _:
            for call in asked:
                for words, _ in call.commands:
                    yield words
