"""How queued commands become batch calls, and their answers one list."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from redis.exceptions import RedisError, ResponseError

from keyleash.client.flow import BatchCall, Flow
from keyleash.client.waiting import Waiting
from keyleash.errors import (
    ArgsTooManyError,
    KeyleashError,
    NotReplicatedError,
    RateLimitedError,
)
from keyleash.protocol.request import MAX_ARGUMENTS, MAX_BATCH_COMMANDS, Argument, BatchMode

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
