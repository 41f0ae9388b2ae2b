"""Batches that fit one call of a guard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from keyleash.client.actions import Words
from keyleash.errors import ArgsTooManyError
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS

MAX_CHUNK_COMMANDS = 128
"""Commands of a pipeline in one call, during which the server is blocked."""

MAX_CHUNK_BYTES = 1024 * 1024
"""Upper bound on the payload of one call, so that the server is not blocked for long."""

_TEXTS = (str, bytes, bytearray)  # a union would take twice as long


def require_one_call(commands: Sequence[Words]) -> None:
    """Raise ArgsTooManyError if the *commands* of a batch exceed one call."""
    values = sum(map(_values, commands))
    if len(commands) > MAX_BATCH_COMMANDS:
        raise ArgsTooManyError({"commands": str(len(commands)), "limit": str(MAX_BATCH_COMMANDS)})
    if values > MAX_ARGUMENTS:
        raise ArgsTooManyError({"arguments": str(values), "limit": str(MAX_ARGUMENTS)})


def fits_chunk(commands: Sequence[Words]) -> bool:
    """Return whether plain commands, without arguments in their names, fit one call."""
    for words in commands:
        if not isinstance(words[0], (str, bytes)) or not words[0].isalpha():
            return False
    try:
        size = sum(map(len, chain.from_iterable(commands)))
    except TypeError:
        # There are numbers.
        size = sum(map(_bytes, commands))
    return (
        len(commands) <= MAX_CHUNK_COMMANDS
        and size <= MAX_CHUNK_BYTES
        and sum(map(len, commands)) <= MAX_ARGUMENTS
    )


def chunks(commands: Sequence[Words], indexes: Sequence[int]) -> Iterator[list[int]]:
    """Split the commands at *indexes*, in order, into chunks that fit one call."""
    if fits_chunk([commands[index] for index in indexes]):
        if indexes:
            yield [*indexes]
        return
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
        size += len(word) if isinstance(word, _TEXTS) else getattr(word, "nbytes", 0)
    return size
