"""The protocol of a guarded call without I/O: requests, waiting, and the chunks of a batch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain
from typing import Any, TypeAlias

from redis.client import NEVER_DECODE
from redis.exceptions import RedisError, ResponseError

from keyleash.errors import ArgsTooManyError, KeyleashError, NotReplicatedError, RateLimitedError
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS, Argument, BatchMode

# Flows: what a call does, written once, and run with or without `await`.
#
# A flow is a generator. It yields what it wants done, and is sent what came of it, or thrown
# the error; what it returns is the outcome. `drive` runs one for the sync client, `adrive`
# for the async one. The way of a plain command that succeeds is no flow, since it must be
# cheap.

Flow: TypeAlias = Generator[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Plain:
    """Run one of keyleash's own commands, past the guard, on the connection at hand."""

    words: tuple[str, ...]


class Retry(Enum):
    """Make the call again that the connection at hand was taken for."""

    AGAIN = auto()


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep, with no connection in hand."""

    seconds: float


@dataclass(frozen=True, slots=True)
class QueuedCommand:
    """Send one command through its guard.

    Attributes:
        poll: Whether a null reply is to be raised as `NothingYet`.
    """

    words: tuple[Argument, ...]
    options: dict[str, Any] = field(default_factory=dict)
    poll: bool = False


@dataclass(frozen=True, slots=True)
class BatchCall:
    """Send commands in one call of the batch script.

    Attributes:
        commands: Each as redis-py queues it: its words, and options for its parser.
    """

    mode: BatchMode
    commands: Sequence[tuple[tuple[Argument, ...], dict[str, Any]]]

    @property
    def words(self) -> list[tuple[Argument, ...]]:
        """The commands without their options."""
        return [words for words, _ in self.commands]

    @property
    def undecoded(self) -> bool:
        """Whether some command's reply must not be decoded, so that none may be yet."""
        return any(NEVER_DECODE in options for _, options in self.commands)


class NothingYet(Exception):  # noqa: N818 - an answer, and no error that anybody sees
    """A poll of a blocking command found nothing."""


def drive(flow: Flow, perform: Callable[[Any], Any]) -> Any:
    """Run *flow* to its end; *perform* does what it asks for."""
    try:
        asked = next(flow)
        while True:
            try:
                outcome = perform(asked)
            except Exception as error:
                asked = flow.throw(error)
            else:
                asked = flow.send(outcome)
    except StopIteration as end:
        return end.value


async def adrive(flow: Flow, perform: Callable[[Any], Awaitable[Any]]) -> Any:
    """The async twin of `drive`."""
    try:
        asked = next(flow)
        while True:
            try:
                outcome = await perform(asked)
            except Exception as error:
                asked = flow.throw(error)
            else:
                asked = flow.send(outcome)
    except StopIteration as end:
        return end.value


def bound_of(wait: bool | float) -> float:
    """How long one call may sleep in all, in seconds; 0 is never.

    Raises:
        ValueError: *wait* is negative or no number.
    """
    if wait is True:
        return math.inf
    if not wait >= 0:
        raise ValueError("wait must be True, False or a number of seconds")
    return float(wait)


class Waiting:
    """What one call may still sleep.

    A budget is never waited for: its next window may be a month away.
    """

    def __init__(self, bound_s: float) -> None:
        self._left_s = bound_s

    def within(self, bound_s: float) -> Waiting:
        """The same patience, but for no longer than *bound_s* in all."""
        return Waiting(min(self._left_s, bound_s))

    def pause(self, refused: Sequence[RateLimitedError]) -> Pause:
        """The sleep after which the first of the *refused* fits.

        Raises:
            RateLimitedError: it is longer than what is left.
        """
        first = min(refused, key=lambda item: item.retry_after_ms)
        seconds = first.retry_after_ms / 1000
        if seconds > self._left_s:
            raise first
        self._left_s -= seconds
        return Pause(seconds)

    def patiently(self, call: QueuedCommand | BatchCall) -> Flow:
        """Make a call, as often as it takes."""
        while True:
            try:
                return (yield call)
            except RateLimitedError as refused:
                yield self.pause([refused])


MAX_CHUNK_COMMANDS = 128
"""Commands of a pipeline that go in one call: the server does nothing else meanwhile."""

MAX_CHUNK_BYTES = 1024 * 1024
"""Bytes of their words, likewise: of values of 1 MiB, 128 would take it half a second."""

_TEXTS = (str, bytes, bytearray)  # a union would take twice as long to look through

Queued = tuple[tuple[Argument, ...], dict[str, Any]]
"""A command as redis-py queues it: its words, and options for its parser."""


def pipelined(
    commands: Sequence[Queued], atomic: bool, waiting: Waiting, encoder: Callable[[], Any]
) -> Flow:
    """Send the commands of a pipeline; one answer for each, in order.

    Args:
        encoder: Makes the encoder that the client's connections have.
    """
    if atomic:
        return atomically(commands, waiting)
    return one_by_one(commands, waiting, encoder)


def atomically(commands: Sequence[Queued], waiting: Waiting) -> Flow:
    """Send all commands as one batch: all are allowed, or none runs.

    Raises:
        ArgsTooManyError: they do not fit into one call; nothing was sent.
    """
    values = sum(map(_values, commands))
    if len(commands) > MAX_BATCH_COMMANDS:
        raise _too_many("commands", len(commands), MAX_BATCH_COMMANDS)
    if values > MAX_ARGUMENTS:
        raise _too_many("arguments", values, MAX_ARGUMENTS)
    return (yield from waiting.patiently(BatchCall(BatchMode.ALL, commands)))


def one_by_one(commands: Sequence[Queued], waiting: Waiting, encoder: Callable[[], Any]) -> Flow:
    """Send commands in as few batches as may be, each command judged on its own.

    What a batch as a whole is refused with is the answer of each of its commands. What
    a rate refused is sent again if it may be waited for, before the commands of a later
    batch, which must not overtake it.

    Raises:
        DataError: a word cannot be encoded; nothing was sent.
        ConnectionError: nothing was answered. If something was, the error stands where
            an answer is missing.
        NotReplicatedError: replicas lack what some batch did; all answers are in it.
    """
    parts = deque(chunks(commands, range(len(commands))))
    if len(parts) > 1:
        _require_sendable(commands, encoder().encode)
    answers: list[Any] = [None] * len(commands)
    answered = False
    short: NotReplicatedError | None = None
    while parts:
        chunk = parts[0]
        try:
            got = yield BatchCall(BatchMode.EACH, [commands[index] for index in chunk])
        except NotReplicatedError as error:
            got, short = error.reply, error
        except ResponseError as error:
            got = [error] * len(chunk)
        except (RedisError, KeyleashError) as error:
            if not answered:
                raise
            for index in chain(*parts):
                answers[index] = error
            break
        answered = True
        for index, answer in zip(chunk, got, strict=True):
            answers[index] = answer
        refused = [index for index in chunk if isinstance(answers[index], RateLimitedError)]
        parts.popleft()
        if refused:
            try:
                yield waiting.pause([answers[index] for index in refused])
            except RateLimitedError:
                continue
            parts.appendleft(refused)
    if short is not None:
        raise short.about(answers)
    return answers


def _require_sendable(commands: Sequence[Queued], encode: Callable[[Any], bytes]) -> None:
    # redis-py packs a whole pipeline before it sends any, so that no part of it has run.
    for words, _ in commands:
        for word in words:
            encode(word)


def chunks(commands: Sequence[Queued], indexes: Sequence[int]) -> Iterator[list[int]]:
    """Part the commands at *indexes*, in order, by what one call may carry."""
    chunk: list[int] = []
    values = size = 0
    for index in indexes:
        more, larger = _values(commands[index]), _bytes(commands[index])
        if chunk and (
            len(chunk) == MAX_CHUNK_COMMANDS
            or values + more > MAX_ARGUMENTS
            or size + larger > MAX_CHUNK_BYTES
        ):
            yield chunk
            chunk, values, size = [], 0, 0
        chunk.append(index)
        values += more
        size += larger
    if chunk:
        yield chunk


def _values(queued: Queued) -> int:
    words = queued[0]
    name = words[0]
    # redis-py lets the name carry arguments.
    if not isinstance(name, str | bytes) or name.isalpha():
        return len(words)
    return len(words) - 1 + len(name.split())


def _bytes(queued: Queued) -> int:
    """About how many bytes a command has, without its numbers, which are short."""
    size = 0
    for word in queued[0]:
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
