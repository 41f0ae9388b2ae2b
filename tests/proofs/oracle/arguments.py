"""Argument lists for every command: such as clients send, and such as an attacker would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from keyleash.commands import CommandSpec
from keyleash.commands.spec import KeyRange, NumberedKeys, OptionKey, StreamKeys

Call = tuple[bytes, ...]
_T = TypeVar("_T")

WORDS = (
    b"v", b"", b"0", b"1", b"2", b"-1", b"1-1", b"GET", b"get", b"gEt\0x", b"GETX", b"NX", b"XX",
    b"*", b"(1", b"[a", b"+", b"-", b"FIELDS", b"COUNT", b"MATCH", b"WITHSCORES", b"LEFT", b"AND",
    b"BEFORE", b"STORE", b"STREAMS", b"LIMIT", b"DB", b"BY", b"\xff\xfe\0\r\n", b"100000",
)  # fmt: skip
COUNTS = (
    b"0", b"1", b"2", b"3", b"9", b"02", b"+2", b" 2", b"2 ", b"2\0", b"x", b"2x", b"", b"-1",
    b"-2", b"2.0", b"0x2", b"1000", b"4294967298", b"18446744073709551618",
)  # fmt: skip
"""What may stand where keys are counted."""
SET_WORDS = (
    b"GET", b"get", b"GeT\0x", b"GETS", b"NX", b"XX", b"KEEPTTL", b"EX", b"10", b"IFEQ", b"v",
)  # fmt: skip
BITFIELD_PHRASES: tuple[Call, ...] = (
    (b"GET", b"u8", b"0"), (b"get\0x", b"i5", b"#1"), (b"SET", b"u8", b"0", b"1"),
    (b"INCRBY", b"i53", b"7", b"1"), (b"OVERFLOW", b"WRAP"), (b"overflow", b"FAIL"),
    (b"GET", b"i64", b"0"), (b"GET", b"u8"), (b"OVERFLOW",), (b"x",),
)  # fmt: skip
TAIL_PHRASES: tuple[Call, ...] = (
    (b"LEFT",), (b"MIN",), (b"MAX", b"COUNT", b"2"), (b"WEIGHTS", b"1", b"2"),
    (b"AGGREGATE", b"SUM"), (b"LIMIT", b"1"), (b"WITHSCORES",), (b"EX", b"10"), (b"NX",), (b"x",),
)  # fmt: skip
"""What stands behind counted keys."""
STORE_PHRASES: tuple[Call, ...] = (
    (b"ASC",), (b"alpha",), (b"LIMIT", b"0", b"1"), (b"limit\0", b"0", b"1"), (b"COUNT", b"1"),
    (b"WITHDIST",), (b"BY", b"nosort"), (b"GET", b"#"), (b"STORED",), (b"LIMIT",),
    (b"BY", b"ab*"), (b"get", b"b*->f"), (b"BY", b"STORE"), (b"GET", b"GET"),
)  # fmt: skip
STORE_WORDS = (b"STORE", b"store", b"StoreDist", b"STOREDIST", b"STORE\0x")
STREAM_PHRASES: tuple[Call, ...] = (
    (b"COUNT", b"1"), (b"count\0", b"2"), (b"BLOCK", b"1"), (b"block", b"0"), (b"NOACK",),
    (b"CLAIM", b"1"), (b"COUNT", b"STREAMS"), (b"x",), (b"GROUP", b"g", b"c"),
)  # fmt: skip
STREAMS_WORDS = (b"STREAMS", b"streams", b"STREAMS\0x")
NAMED_AS_OPTIONS = (b"STREAMS", b"GROUP", b"BLOCK", b"STORE", b"LIMIT", b"GET", b"COUNT")


class Draws:
    """Choices read from bytes; where these end, the first choice is taken."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, limit: int) -> int:
        size = 1 if limit <= 256 else 2
        number = int.from_bytes(self._data[self._at : self._at + size], "big")
        self._at += size
        return number % limit

    def pick(self, choices: Sequence[_T]) -> _T:
        return choices[self.below(len(choices))]

    def once_in(self, times: int) -> bool:
        return self.below(times) == times - 1


def drawn_call(
    draws: Draws, spec: CommandSpec, keys: Sequence[bytes], channels: Sequence[bytes] = (b"c",)
) -> Call:
    """A call of a command: mostly one that the server would run, sometimes one word off."""
    name, *rest = spec.name.encode().split(b" ")
    argv = [name, *(draws.pick((word, word.lower(), word.title())) for word in rest)]
    named = len(argv)
    argv += _arguments(draws, spec, named, keys, channels)
    if draws.once_in(6):
        _change(draws, argv, named, keys)
    return tuple(argv)


def _arguments(
    draws: Draws, spec: CommandSpec, named: int, keys: Sequence[bytes], channels: Sequence[bytes]
) -> list[bytes]:
    if spec.counts:
        return [draws.pick(channels) for _ in range(draws.below(4))]
    if spec.channel is not None:
        if spec.subscribes is None or draws.once_in(9):
            return [draws.pick(channels), b"message"]
        return [draws.pick(channels) + draws.pick((b"", b"", b"*", b"?", b"[a]"))]
    if spec.scans:
        return _scan(draws, keys)
    for search in spec.keys:
        match search:
            case NumberedKeys():
                return _numbered(draws, search, keys)
            case OptionKey(start=start):
                return _storing(draws, start, keys)
            case StreamKeys():
                return _streams(draws, spec, keys)
    if spec.name == "BITFIELD":
        return [draws.pick(keys), *_phrases(draws, BITFIELD_PHRASES, 4)]
    if spec.name == "SORT_RO":
        return [draws.pick(keys), *_phrases(draws, STORE_PHRASES, 3)]
    return _counted(draws, spec, named, keys)


def _counted(draws: Draws, spec: CommandSpec, named: int, keys: Sequence[bytes]) -> list[bytes]:
    total = abs(spec.arity)
    if spec.arity < 0:
        total += draws.pick((0, 0, 0, 1, 1, 2, 3, 4))
    words = SET_WORDS if spec.name == "SET" else WORDS
    argv = []
    for place in range(named, total):
        is_key = any(_covers(key, place, total) for key in spec.keys if isinstance(key, KeyRange))
        # The table has no key positions of a refused command.
        is_key = is_key or (spec.refused is not None and draws.below(2) == 1)
        argv.append(draws.pick(keys if is_key else words))
    return argv


def _covers(search: KeyRange, place: int, total: int) -> bool:
    last = search.last if search.last >= 0 else total + search.last
    return search.first <= place <= last and (place - search.first) % search.step == 0


def _scan(draws: Draws, keys: Sequence[bytes]) -> list[bytes]:
    argv = [draws.pick((b"0", b"0", b"1", b"x"))]
    for _ in range(draws.below(3)):
        glob = draws.pick(keys) + draws.pick((b"*", b"*", b"", b"?", b"[a]", b"\\*"))
        argv += draws.pick(((b"MATCH", glob), (b"match\0x", glob), (b"COUNT", b"9"), (b"MATCH",)))
    return argv


def _numbered(draws: Draws, search: NumberedKeys, keys: Sequence[bytes]) -> list[bytes]:
    argv = [draws.pick(keys) if place == 1 and search.count_at == 2 else b"0"
            for place in range(1, search.count_at)]  # fmt: skip
    given = draws.pick((1, 2, 2, 3, 0))
    argv.append(draws.pick(COUNTS) if draws.once_in(4) else b"%d" % given)
    for _ in range(given):
        argv += [draws.pick(keys), *[b"v"] * (search.step - 1)]
    return argv + _phrases(draws, TAIL_PHRASES, 2)


def _storing(draws: Draws, start: int, keys: Sequence[bytes]) -> list[bytes]:
    # Longitude, latitude, radius and unit; or member, radius and unit.
    argv = [draws.pick(keys), *(b"1", b"2", b"3", b"m")[6 - start : 4 if start > 2 else 0]]
    if start == 2:
        argv = argv[:1]
    for _ in range(draws.below(4)):
        if draws.below(2):
            argv += [draws.pick(STORE_WORDS), draws.pick((*keys[:8], *NAMED_AS_OPTIONS))]
        else:
            argv += draws.pick(STORE_PHRASES)
    return argv


def _streams(draws: Draws, spec: CommandSpec, keys: Sequence[bytes]) -> list[bytes]:
    names = (b"g", b"c", *NAMED_AS_OPTIONS, keys[0])
    argv: list[bytes] = []
    before = draws.once_in(3)
    if before:
        argv += draws.pick(STREAM_PHRASES)
    if spec.name == "XREADGROUP" or draws.once_in(12):
        argv += [draws.pick((b"GROUP", b"group")), draws.pick(names), draws.pick(names)]
    argv += _phrases(draws, STREAM_PHRASES, 2)
    argv.append(draws.pick(STREAMS_WORDS))
    given = draws.pick((1, 1, 2, 3))
    argv += [draws.pick((*keys[:12], *NAMED_AS_OPTIONS)) for _ in range(given)]
    return argv + [draws.pick((b">", b"0", b"$", b"1-1")) for _ in range(given)]


def _phrases(draws: Draws, phrases: Sequence[Call], most: int) -> list[bytes]:
    return [word for _ in range(draws.below(most + 1)) for word in draws.pick(phrases)]


def _change(draws: Draws, argv: list[bytes], named: int, keys: Sequence[bytes]) -> None:
    """Replace, insert or drop one argument."""
    place = named + draws.below(len(argv) - named + 1)
    word = draws.pick(keys if draws.below(2) else (*WORDS, *NAMED_AS_OPTIONS))
    match draws.below(3):
        case 0:
            argv[place : place + 1] = [word]
        case 1:
            argv[place:place] = [word]
        case _:
            del argv[place : place + 1]
