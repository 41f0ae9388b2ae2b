"""Turn any bytes into a raw EVALSHA: mostly a client's call with some errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keyleash.commands import load_table
from keyleash.store.wire import RUNS, BatchMode, as_bytes, declared_keys, runs_call
from proofs.oracle.arguments import Draws, drawn_call

TABLE = load_table()
NAMES = sorted(spec.name for spec in TABLE)
SCOPABLE = sorted(spec.name for spec in TABLE if spec.refused is None)
READ_FOR_KEYS = sorted(spec.name for spec in TABLE if spec.refused is None and spec.walk is None)
"""Their arguments must be read to find the keys."""
RUN_NAMES = [name.encode() for name in sorted(RUNS)]
MAX_CHANGES = 4
AWKWARD = (
    b"", b"\0", b"2", b"3", b"-1", b"0", b"1e9", b"nan", b"inf", b"0x10", b"9007199254740993",
    b"18446744073709551616", b"%", b"%s%n", b"\xff\xfe", b"\r\n", b"']]--", b"each", b"all",
    b"LEASH ALLOWED", b"GET", b"SET", b"EVAL", b"FLUSHALL", b"*1\r\n$4\r\nPING\r\n", b"x" * 300,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RawCall:
    """The words behind EVALSHA and a digest.

    Attributes:
        identity: The identity whose guard is called, by its place in the arena.
        is_batch: Whether the batch script is called.
        commands: The commands of a batch without errors.
        shape: The number of commands that each reply is for.
    """

    identity: int
    is_batch: bool
    keys: tuple[bytes, ...]
    arguments: tuple[bytes, ...]
    commands: tuple[tuple[bytes, ...], ...] = ()
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Supply:
    """The material of calls.

    Attributes:
        tokens: A live token of each identity, in their order.
        keys: Granted keys, others, and control keys.
        takes_runs: Whether the guard of each identity takes runs.
    """

    tokens: Sequence[bytes]
    keys: Sequence[bytes]
    takes_runs: Sequence[bool]


def raw_call(data: bytes, supply: Supply) -> RawCall:
    """Read *data* as a call; every byte string is one."""
    draws = Draws(data)
    identity = draws.below(len(supply.tokens))
    kind = draws.below(8)
    if kind == 7:
        words = _any_words(data[2:])
        return RawCall(identity, draws.once_in(2), *_cut(words, draws.below(9)))
    is_batch = kind > 4
    arguments = [supply.tokens[identity], draws.pick((b"c", b"", *AWKWARD))]
    commands = [_command(draws, supply) for _ in range(1 + draws.below(4) if is_batch else 1)]
    keys = [key for argv in commands for key in declared(argv)]
    shape: Sequence[int] = ()
    is_whole = kind != 6 or supply.takes_runs[identity]
    if kind == 6:
        commands = _repeated(draws, commands, supply)
        mode = draws.pick((BatchMode.EACH, BatchMode.ALL))
        # The names of runs are known as text, as redis-py writes them.
        named = [(argv[0].decode("latin-1"), *argv[1:]) for argv in commands]
        call, shape = runs_call(TABLE, "", "", "", mode, named)
        words = [as_bytes(word) for word in call]
        count = int(call[2])
        keys, arguments = words[3 : 3 + count], [*arguments, *words[5 + count :]]
    elif is_batch:
        arguments.append(draws.pick((b"each", b"all")))
        for argv in commands:
            arguments += [b"%d" % len(argv), *argv]
    else:
        arguments += commands[0]
    changes = max(0, draws.below(2 * MAX_CHANGES) - MAX_CHANGES)
    for _ in range(changes):
        _change(draws, draws.pick((arguments, arguments, keys)), supply)
    return RawCall(
        identity,
        is_batch,
        tuple(keys),
        tuple(arguments),
        commands=tuple(commands) if is_whole and is_batch and not changes else (),
        shape=tuple(shape),
    )


def _repeated(
    draws: Draws, commands: Sequence[tuple[bytes, ...]], supply: Supply
) -> list[tuple[bytes, ...]]:
    """Return the commands, some again with other keys, so that they are runs."""
    found = []
    for name, *words in commands:
        command = draws.pick((name, *RUN_NAMES))
        for _ in range(1 + draws.below(3)):
            found.append((command, draws.pick(supply.keys), *words[1:]))
    return found


def _command(draws: Draws, supply: Supply) -> tuple[bytes, ...]:
    name = draws.pick(draws.pick((SCOPABLE, SCOPABLE, SCOPABLE, READ_FOR_KEYS, NAMES)))
    spec = TABLE.commands[name]
    return drawn_call(draws, spec, supply.keys, supply.keys[:4])


def declared(argv: Sequence[bytes]) -> Sequence[bytes]:
    return [bytes(key) for key in declared_keys(TABLE, argv) if isinstance(key, bytes)]


def _change(draws: Draws, words: list[bytes], supply: Supply) -> None:
    """Spoil one word: replaced, inserted, dropped, doubled, cut, flipped."""
    place = draws.below(len(words) + 1)
    other = draws.pick(
        (AWKWARD, tuple(supply.keys), tuple(supply.tokens), tuple(name.encode() for name in NAMES))
    )
    word = draws.pick(other)
    match draws.below(7):
        case 0 | 1:
            words[place : place + 1] = [word]
        case 2:
            words[place:place] = [word]
        case 3:
            del words[place : place + 1]
        case 4:
            words[place:place] = words[place : place + 1]
        case 5:
            words[place : place + 1] = [
                item[: draws.below(len(item) + 1)] for item in words[place:][:1]
            ]
        case _:
            words[place : place + 1] = [_flipped(draws, item) for item in words[place:][:1]]


def _flipped(draws: Draws, word: bytes) -> bytes:
    if not word:
        return b"\0"
    at = draws.below(len(word))
    return word[:at] + bytes([word[at] ^ (1 << draws.below(8))]) + word[at + 1 :]


def _any_words(data: bytes) -> list[bytes]:
    """Words of lengths that stand before them."""
    words, at = [], 0
    while at < len(data):
        size = data[at] % 64
        words.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    return words


def _cut(words: Sequence[bytes], count: int) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    return tuple(words[:count]), tuple(words[count:])
