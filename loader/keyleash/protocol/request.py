"""Building a guard call: the arguments of EVALSHA or FCALL, from commands as redis-py has them.

EVALSHA <digest> <n> <data keys…> <token> <correlation id> <protocol> <command> <args…>
EVALSHA <batch digest> <n> <data keys…> <token> <correlation id> <protocol> <mode>
        {<argc> <command> <args…>}…

By functions, `FCALL leash_<digest>` stands in front, and the rest is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

from keyleash.commands import CommandTable
from keyleash.commands.keys import UnplacedKeysError, key_places
from keyleash.protocol.transport import Transport, call_head

MAX_ARGUMENTS = 7_000
"""Arguments of one command, its name among them: Lua's `unpack` ends at 7,999 values."""

MAX_BATCH_COMMANDS = 1_000
"""Commands of one batch; their arguments together are bounded by `MAX_ARGUMENTS`."""

Argument = Any
"""Whatever redis-py's encoder takes: bytes, str, int, float, memoryview."""


class BatchMode(StrEnum):
    """How a batch is judged.

    `each`: every command on its own; a refusal stands in its place in the reply.
    `all`: all before anything runs; one refusal refuses the whole.
    """

    EACH = "each"
    ALL = "all"


def guard_call(
    table: CommandTable,
    digest: str,
    token: str,
    correlation: str,
    protocol: str | int,
    command: Sequence[Argument],
    transport: Transport = Transport.EVALSHA,
) -> tuple[Argument, ...]:
    """Wrap a command in the call of its guard."""
    words, keys = _placed(table, command)
    head = call_head(transport, digest)
    return (*head, len(keys), *keys, token, correlation, protocol, *words)


def batch_call(
    table: CommandTable,
    digest: str,
    token: str,
    correlation: str,
    protocol: str | int,
    mode: BatchMode,
    commands: Iterable[Sequence[Argument]],
    transport: Transport = Transport.EVALSHA,
) -> tuple[Argument, ...]:
    """Wrap commands in one call of their identity's batch script, whose digest is *digest*."""
    keys: list[Argument] = []
    items: list[Argument] = []
    for command in commands:
        words, own = _placed(table, command)
        keys += own
        items.append(len(words))
        items += words
    head = call_head(transport, digest)
    return (*head, len(keys), *keys, token, correlation, protocol, mode.value, *items)


def _placed(
    table: CommandTable, command: Sequence[Argument]
) -> tuple[Sequence[Argument], Sequence[Argument]]:
    """A command as it goes on the wire, and the keys of it that are declared."""
    place = table.key_slices.get(command[0])
    if place is not None:
        # As redis-py's own methods name it: nothing to take apart.
        return command, command[place]
    words = _split_name(command)
    return words, declared_keys(table, words)


def declared_keys(table: CommandTable, words: Sequence[Argument]) -> Sequence[Argument]:
    """The keys of a call, its name in upper case, as they are declared to the guard.

    A call that the table does not place has none: it is the guard's to refuse, not ours.
    """
    place = table.key_slices.get(words[0])
    if place is not None:
        return words[place]
    argv = [_encoded(word) for word in words]
    spec = table.find(argv)
    try:
        return [words[at] for at in key_places(spec, argv)] if spec else ()
    except UnplacedKeysError:
        return ()


def may_write(table: CommandTable, command: Sequence[Argument]) -> bool:
    """Whether others may see what a command did; of one that the table lacks, they may."""
    spec = table.find([_encoded(word) for word in _split_name(command)[:2]])
    return spec is None or spec.mutates


def _encoded(word: Argument) -> bytes:
    """As redis-py's encoder does it; what it does not take, it will refuse itself, later."""
    if isinstance(word, memoryview):
        return word.tobytes()
    return word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")


def _split_name(command: Sequence[Argument]) -> list[Argument]:
    """Redis-py lets the name carry arguments (`XGROUP CREATE`); on the wire they are apart."""
    name = command[0]
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    words = str(name).split() or [""]
    return [words[0].upper(), *words[1:], *command[1:]]
