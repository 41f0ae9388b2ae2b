"""Calls of every command that ask a server for as much as they can, and batches of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS
from proofs.hostile.keys import HITS, PREFIX
from support.command_table import FormDraws, command_rows

Call = tuple[bytes, ...]

NUMBERS = (
    b"0", b"1", b"2", b"-1", b"10", b"64", b"100", b"350", b"1000", b"5000", b"10000", b"17000",
    b"30000", b"80000", b"-1000", b"-5000", b"-100000", b"200000", b"1000000", b"50000000",
    b"536870911", b"9223372036854775807", b"-9223372036854775807", b"1e6", b"nan", b"inf", b"-inf",
)  # fmt: skip
INDEXES = (
    b"0", b"0", b"0", b"-1", b"-1", b"1", b"9", b"-10", b"99", b"1000", b"-1000", b"20000",
    b"-20000", b"50000", b"-100000", b"2000000", b"-2250000", b"9223372036854775807", b"x",
)  # fmt: skip
SCORES = (
    b"-inf", b"-inf", b"+inf", b"+inf", b"0", b"(0", b"1000", b"50000", b"(80000", b"1e300", b"inf",
    b"nan",
)  # fmt: skip
LEXES = (b"-", b"-", b"+", b"+", b"[m5", b"(m5", b"[m9", b"(m", b"[", b"x")
IDS = (
    b"-", b"0", b"0", b"0-1", b"+", b"$", b">", b">", b"5-5", b"(5-1", b"390000-1", b"1000",
    b"99999-0", b"x",
)  # fmt: skip
GLOBS = (
    b"*", b"*a*a*a*a*b", b"f*", b"m1*", b"*" * 300 + b"b", b"*[^x]*?*", b"?*?*?*z", b"\\*",
    b"*" + b"?*" * 200 + b"z", b"[" + b"a-z" * 500 + b"]*x", b"x" * 3000,
)  # fmt: skip
SIZES = (1, 1, 2, 3, 10, 100, 700, 2300, 6900)
TYPES = (b"string", b"list", b"set", b"zset", b"hash", b"stream", b"x")
PATHS = (
    b"$", b"$", b".", b"$.l", b"$.s", b"$[0]", b"$[0]", b"$[-1]", b"$.l[0]", b"$[*]", b"$.*",
    b"$..a", b"$[0:1000]", b"$[?(@>0)]", b"$.o", b"$..",
)  # fmt: skip
UNITS = (b"m", b"km", b"ft")
NEW = PREFIX + b"new:"
FRESH = tuple(NEW + b"%d" % number for number in range(3))
MAX_BYTES = 32_000_000
"""What a gateway takes as one request."""
LONG = (64_000, 200_000, 204_801, 1_000_000, 10_000_000, 16_777_216, MAX_BYTES)


class Draws(FormDraws):
    """Choices of one example.

    Args:
        keys: Key names by their word in the grammar.
        payloads: What RESTORE gets.
        colliding: Words that have one hash in the Lua of the server.
    """

    def __init__(
        self,
        seed: int | str,
        keys: Mapping[str, Sequence[bytes]],
        payloads: Sequence[bytes],
        colliding: Sequence[bytes],
    ) -> None:
        super().__init__(random.Random(seed), _WORDS)
        self.payloads = payloads
        self.colliding = colliding
        self._keys = keys
        self._every = [key for names in keys.values() for key in names]

    def pick(self, choices: Sequence[bytes]) -> bytes:
        return self.random.choice(choices)

    def chance(self, times: int) -> bool:
        return self.random.randrange(times) == 0

    def below(self, limit: int) -> int:
        return self.random.randrange(limit)

    def key(self, kind: str) -> bytes:
        """Return a key of a kind; now and then of another."""
        if self.chance(500):
            return NEW + b"n" * self.random.choice(LONG)
        names = self._keys.get(kind)
        if names is None or self.chance(25):
            names = self._every
        return self.pick([*names, *(FRESH if self.chance(10) else ())])

    def several(self, word: str) -> list[list[Any]]:
        """Return as many as are left of a few distinct ones."""
        count = self.random.choice(SIZES)
        parts = [self.drawn(word) for _ in range(min(count, self.random.choice((1, 3, 100, 7000))))]
        room = (MAX_ARGUMENTS - 50) // max(map(len, parts))
        most = 1 + MAX_BYTES // (1 + max(sum(map(len, part)) for part in parts))
        return [parts[i % len(parts)] for i in range(min(count, room, most))]

    def value(self) -> bytes:
        if self.chance(40):
            return b"x" * self.random.choice(LONG)
        if self.chance(20):
            return self.pick(self.colliding)
        return b"v" * (self.random.choice((*SIZES, 10_000)) if self.chance(8) else self.below(20))


def _member(draws: Draws) -> bytes:
    if draws.chance(5):
        return draws.pick(draws.colliding)
    number = b"%d" % draws.below(100_000)
    return draws.pick((b"m" + number, number))


def _field(draws: Draws) -> bytes:
    if draws.chance(5):
        return draws.pick(draws.colliding)
    return b"f%d" % draws.below(draws.random.choice((10, 10, 5000, 100_000)))


def _streams(draws: Draws) -> list[bytes]:
    count = draws.random.choice((1, 1, 1, 2, 20, 500))
    few = [draws.key("stream") for _ in range(min(count, 3))]
    keys = [few[i % len(few)] for i in range(count)]
    return [b"STREAMS", *keys, *(draws.pick(IDS) for _ in keys)]


def _place(draws: Draws) -> list[bytes]:
    if draws.chance(2):
        return [b"FROMMEMBER", b"m%d" % draws.below(40_000)]
    return [b"FROMLONLAT", _degree(draws), _degree(draws)]


def _degree(draws: Draws) -> bytes:
    return draws.pick((b"0", b"0.01", b"0.02", b"80", b"-30", b"nan"))


def _vector(draws: Draws) -> list[bytes]:
    count = draws.random.choice((1, 3, 3, 3, 500, 6900))
    if draws.chance(2):
        return [b"FP32", b"\x00\x00\x80\x3f" * count]
    return [b"VALUES", b"%d" % count, *[b"1"] * count]


def _field_operation(draws: Draws) -> list[bytes]:
    kind = draws.pick((b"u8", b"u1", b"i53"))
    place = draws.pick((b"0", b"#1000", b"#1048576", b"7", b"80000000", b"4294967295"))
    return draws.random.choice(
        ([b"GET", kind, place], [b"SET", kind, place, b"1"], [b"INCRBY", kind, place, b"1"])
    )


_WORDS: Mapping[str, Callable[[Draws], bytes | list[bytes]]] = {
    "to": lambda draws: draws.pick(FRESH) if draws.below(4) else draws.key("any"),
    "value": Draws.value,
    "word": lambda draws: draws.pick((b"1", b"word5-", b"2", b"z", b"a" * 1_048_448)),
    "number": lambda draws: draws.pick(NUMBERS),
    "index": lambda draws: draws.pick(INDEXES),
    "score": lambda draws: draws.pick(SCORES),
    "lex": lambda draws: draws.pick(LEXES),
    "bound": lambda draws: draws.pick(draws.random.choice((INDEXES, SCORES, LEXES))),
    "id": lambda draws: draws.pick(IDS),
    "glob": lambda draws: draws.pick(GLOBS),
    "scanned": lambda draws: PREFIX + draws.pick(GLOBS),
    "pattern": lambda draws: (
        PREFIX + draws.pick((b"str:*", b"hash:*->f1", b"*", b"str:m*", b"x"))
        if draws.below(5)
        else draws.pick((b"#", b"nosort"))
    ),
    "cursor": lambda draws: draws.pick((b"0", b"0", b"0", b"1", b"77777", b"x")),
    "seconds": lambda _: b"0.01",
    "bit": lambda draws: draws.pick((b"0", b"1")),
    "member": _member,
    "field": _field,
    "consumer": lambda draws: b"c%d" % draws.below(3),
    "group": lambda draws: draws.pick((b"g", b"g1", b"other")),
    "channel": lambda draws: draws.key("channel") if draws.chance(9) else PREFIX + b"channel",
    "type": lambda draws: draws.pick(TYPES),
    "unit": lambda draws: draws.pick(UNITS),
    "degree": _degree,
    "radius": lambda draws: draws.pick((b"1", b"100", b"10000", b"30000000", b"inf")),
    "place": _place,
    "located": lambda draws: [_degree(draws), _degree(draws), _member(draws)],
    "vector": _vector,
    "ELE-member": lambda draws: [b"ELE", b"m%d" % draws.below(800)],
    "json": lambda draws: b'{"n":1}' if draws.below(3) else b'{"n":"' + draws.value() + b'"}',
    "filter": lambda draws: draws.pick(
        (b".n > 100", b".n > 100 and " * 400 + b".n < 3", b".s in [" + b"1," * 3000 + b"1]")
    ),
    "streams": _streams,
    "path": lambda draws: draws.pick(PATHS),
    "position": lambda draws: draws.pick((b"0", b"0", b"1", *INDEXES)),
    "element": lambda draws: draws.pick(
        (b"1", b"1", b"7", b"{}", b'[{"a":1}]', b'"' + draws.value() + b'"')
    ),
    "hits": lambda _: HITS,
    "query": lambda draws: draws.pick((b"*", b"word", b"wor*", b"@n:[0 400]", b"-x", b"w" * 500)),
    "expression": lambda draws: draws.pick((b"upper(@t)", b"lower(@t)", b"format('%s', @t)")),
    "payload": lambda draws: draws.pick(draws.payloads),
    "field-value": lambda draws: [_field(draws), draws.value()],
    "str-value": lambda draws: [draws.key("str"), draws.value()],
    "score-member": lambda draws: [draws.pick((b"0", b"1", b"1e300", b"inf")), _member(draws)],
    "field-operation": _field_operation,
    "field-read": lambda draws: [b"GET", b"u8", draws.pick((b"0", b"#1000", b"80000000"))],
}


def hostile_call(draws: Draws, name: str) -> Call:
    """Draw one call of a command; sometimes with options twice, or a word that is another's."""
    argv: list[Any] = name.split()
    named = len(argv)
    options: list[list[Any]] = []
    draws.fill(command_rows()[name].form, argv, options)
    if options and draws.chance(4):
        # An option again, or as what belongs to another.
        argv += draws.random.choice(options)
    if len(argv) > named + 1 and draws.chance(6):
        place = named + draws.below(min(len(argv) - named, 12))
        words = (*NUMBERS, b"COUNT", b"LIMIT", b"BYSCORE", b"MATCH", b"ANY", b"STREAMS", b"count\0")
        argv[place : place + draws.below(2)] = [draws.pick(words)]
    return tuple(w if isinstance(w, bytes) else w.encode() for w in argv[:MAX_ARGUMENTS])


def hostile_batch(draws: Draws, names: Sequence[str]) -> list[Call]:
    """Draw a batch: commands that change keys, then others again and again."""
    calls: list[Call] = []
    if draws.chance(20):
        calls = [(b"SETRANGE", NEW + b"%d" % i, b"1048575", b"x") for i in range(900)]
    for _ in range(draws.random.choice((1, 1, 2, 3, 6))):
        call = hostile_call(draws, draws.random.choice(names))
        times = draws.random.choice((1, 1, 2, 10, 17, 100, 400, 1000))
        calls += [call] * min(times, 1 + MAX_ARGUMENTS // len(call))
    if draws.chance(3):
        draws.random.shuffle(calls)
    return _within_bounds(calls)


def _within_bounds(calls: Sequence[Call]) -> list[Call]:
    taken: list[Call] = []
    words = sent = 0
    for call in calls[:MAX_BATCH_COMMANDS]:
        words += len(call)
        sent += sum(map(len, call))
        if words > MAX_ARGUMENTS or (taken and sent > MAX_BYTES):
            break
        taken.append(call)
    return taken
