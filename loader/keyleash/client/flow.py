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


@dataclass(frozen=True, slots=True)
class QueuedCommand:
    """Send one command through its guard.

    Attributes:
        poll: Whether a null reply raises `NothingYet`.
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
        """Return whether some reply must not be decoded, so that all are read as bytes."""
        return any(NEVER_DECODE in options for _, options in self.commands)


class NothingYet(Exception):  # noqa: N818 - internal
    """A poll of a blocking command found nothing."""


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

    def retry(self, call: QueuedCommand | BatchCall) -> Flow:
        """Repeat a call until its rate limits allow it."""
        while True:
            try:
                return (yield call)
            except RateLimitedError as denial:
                yield self.pause([denial])


MAX_CHUNK_COMMANDS = 128
"""Commands of a pipeline in one call, during which the server is blocked."""

MAX_CHUNK_BYTES = 1024 * 1024
"""Upper bound on the payload of one call, so that the server is not blocked for long."""

_TEXTS = (str, bytes, bytearray)  # a union would take twice as long

Queued = tuple[tuple[Argument, ...], dict[str, Any]]
"""A command as redis-py queues it: its words, and options for its parser."""


def all_or_none(commands: Sequence[Queued], waiting: RateWait) -> Flow:
    """Send all commands as one batch: all are allowed, or none runs.

    Raises:
        ArgsTooManyError: they exceed one call; nothing was sent.
    """
    require_one_call(commands)
    return (yield from waiting.retry(BatchCall(BatchMode.ALL, commands)))


def require_one_call(commands: Sequence[Queued]) -> None:
    """Raise ArgsTooManyError if the *commands* of a batch exceed one call."""
    values = sum(map(_values, commands))
    if len(commands) > MAX_BATCH_COMMANDS:
        raise _too_many("commands", len(commands), MAX_BATCH_COMMANDS)
    if values > MAX_ARGUMENTS:
        raise _too_many("arguments", values, MAX_ARGUMENTS)


def each_on_its_own(
    commands: Sequence[Queued], waiting: RateWait, encoder: Callable[[], Any]
) -> Flow:
    """Send commands in as few batches as possible, each command checked on its own.

    If a batch as a whole is denied, that is the reply of each of its commands. A rate-limited
    command is sent again if the wait allows it, before the commands of a later batch, which must
    not overtake it.

    Args:
        encoder: Makes the encoder that the client's connections have.

    Raises:
        DataError: a word cannot be encoded; nothing was sent.
        ConnectionError: there was no reply at all. Otherwise the error takes the place of
            each missing reply.
        NotReplicatedError: too few replicas have the writes of a batch; it carries all replies.
    """
    parts = deque(chunks(commands, range(len(commands))))
    if len(parts) > 1:
        # Like redis-py, which encodes a whole pipeline before it sends any of it.
        encode = encoder().encode
        for word in chain.from_iterable(words for words, _ in commands):
            encode(word)
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
        limited = [index for index in chunk if isinstance(answers[index], RateLimitedError)]
        parts.popleft()
        if limited:
            try:
                yield waiting.pause([answers[index] for index in limited])
            except RateLimitedError:
                continue
            parts.appendleft(limited)
    if short is not None:
        raise short.about(answers)
    return answers


def chunks(commands: Sequence[Queued], indexes: Sequence[int]) -> Iterator[list[int]]:
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


def _values(queued: Queued) -> int:
    words = queued[0]
    name = words[0]
    # redis-py allows arguments in the command name.
    if not isinstance(name, str | bytes) or name.isalpha():
        return len(words)
    return len(words) - 1 + len(name.split())


def _bytes(queued: Queued) -> int:
    """Return the approximate bytes of a command, without its numbers, which are short."""
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
