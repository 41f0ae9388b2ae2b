"""The protocol of a guarded call without I/O: requests, waiting, and the chunks of a batch."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeAlias

from keyleash.errors import ArgsTooManyError, RateLimitedError
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS, Argument

Words: TypeAlias = tuple[Argument, ...]
"""A command: its name and arguments, as redis-py is given them."""
Flow: TypeAlias = Generator[Any, Any, Any]
"""A generator that yields actions and is sent their outcome, or thrown their error.

`drive` runs a flow for the sync client, `adrive` for the async one. A plain command that
succeeds needs no flow, for speed.
"""


@dataclass(frozen=True, slots=True)
class Plain:
    """Run one of keyleash's own commands, without the guard, on the current connection."""

    words: tuple[str, ...]


class Retry(Enum):
    """Repeat the call on the current connection."""

    AGAIN = auto()


class Ask(Enum):
    """Ask the callable that was given as token for the current one."""

    TOKEN = auto()


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep."""

    seconds: float


def drive(flow: Flow, perform: Callable[[Any], Any]) -> Any:
    """Run *flow* to its end; *perform* carries out its actions."""
    try:
        action = next(flow)
        while True:
            try:
                outcome = perform(action)
            except Exception as error:
                action = flow.throw(error)
            else:
                action = flow.send(outcome)
    except StopIteration as end:
        return end.value


async def adrive(flow: Flow, perform: Callable[[Any], Awaitable[Any]]) -> Any:
    """The async twin of `drive`."""
    try:
        action = next(flow)
        while True:
            try:
                outcome = await perform(action)
            except Exception as error:
                action = flow.throw(error)
            else:
                action = flow.send(outcome)
    except StopIteration as end:
        return end.value


def longest_wait(wait: bool | float) -> float:
    """Return the longest total sleep of one call, in seconds; 0 disables sleeping.

    Raises:
        TypeError: *wait* is no number.
        ValueError: it is negative or `nan`.
    """
    if wait is True:
        return math.inf
    if not isinstance(wait, int | float):
        raise TypeError(f"`wait` must be a bool or a number of seconds, not {type(wait).__name__}")
    if not wait >= 0:
        raise ValueError("`wait` must be True, False or a number of seconds")
    return float(wait)


class RateWait:
    """The time that one call may still sleep for rate limits.

    It never waits for a budget, whose next window may be a month away.
    """

    def __init__(self, bound_s: float) -> None:
        self._left_s = bound_s

    def within(self, bound_s: float) -> RateWait:
        """Return the same, limited to *bound_s* seconds in all."""
        return RateWait(min(self._left_s, bound_s))

    def pause(self, denials: Sequence[RateLimitedError]) -> Pause:
        """Return the sleep after which the first of *denials* is allowed.

        Raises:
            RateLimitedError: it exceeds the remaining time.
        """
        first = min(denials, key=lambda item: item.retry_after_ms)
        seconds = first.retry_after_ms / 1000
        if seconds > self._left_s:
            raise first
        self._left_s -= seconds
        return Pause(seconds)


MAX_CHUNK_COMMANDS = 128
"""Commands of a pipeline in one call, during which the server is blocked."""

MAX_CHUNK_BYTES = 1024 * 1024
"""Upper bound on the payload of one call, so that the server is not blocked for long."""

_TEXTS = (str, bytes, bytearray)  # a union would take twice as long


def require_one_call(commands: Sequence[Words]) -> None:
    """Raise ArgsTooManyError if the *commands* of a batch exceed one call."""
    values = sum(map(_values, commands))
    if len(commands) > MAX_BATCH_COMMANDS:
        raise _too_many("commands", len(commands), MAX_BATCH_COMMANDS)
    if values > MAX_ARGUMENTS:
        raise _too_many("arguments", values, MAX_ARGUMENTS)


def chunks(commands: Sequence[Words], indexes: Sequence[int]) -> Iterator[list[int]]:
    """Split the commands at *indexes*, in order, into chunks that fit one call."""
    chunk: list[int] = []
    values = size = 0
    for index in indexes:
        added, larger = _values(commands[index]), _bytes(commands[index])
        if chunk and (
            len(chunk) == MAX_CHUNK_COMMANDS
            or values + added > MAX_ARGUMENTS
            or size + larger > MAX_CHUNK_BYTES
        ):
            yield chunk
            chunk, values, size = [], 0, 0
        chunk.append(index)
        values += added
        size += larger
    if chunk:
        yield chunk


def _values(words: Words) -> int:
    name = words[0]
    # redis-py allows arguments in the command name.
    if not isinstance(name, str | bytes) or name.isalpha():
        return len(words)
    return len(words) - 1 + len(name.split())


def _bytes(words: Words) -> int:
    """Return the approximate bytes of a command, without its numbers, which are short."""
    size = 0
    for word in words:
        if isinstance(word, _TEXTS):
            size += len(word)
        elif isinstance(word, memoryview):
            size += word.nbytes
    return size


def _too_many(what: str, count: int, limit: int) -> ArgsTooManyError:
    return ArgsTooManyError(
        {what: str(count), "limit": str(limit)},
        help="make several batches, or use pipeline(transaction=False)",
    )
