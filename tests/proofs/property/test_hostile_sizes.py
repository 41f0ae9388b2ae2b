"""No call or batch of an agent holds a server for long or fills its memory, whatever its keys."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from keyleash.store.wire import BatchMode
from proofs.hostile.calls import Call, hostile_batch, hostile_call
from proofs.hostile.campaign import shown
from proofs.hostile.ground import Ground, ground
from support.servers import embedded_label, find_server_binaries
from support.thorough import FACTOR

pytestmark = pytest.mark.slow

CALLS, BATCHES = 1, 80
"""Of each command, and of all, on the embedded server; the others get a share."""
SHARE = 4
SMALL = 0.2
"""How many elements the keys of the other servers have."""
ROUNDS = 4
"""How often what took too much is tried again at the end, when others may use the machine less."""


MEGA = b"k:hash:mega"
NEW = b"k:new:0"
KNOWN: dict[str, Sequence[tuple[Any, ...]]] = {
    "one string read often": [("GET", "k:str:long")] * 500,
    **{
        f"old value {' '.join(words)} ×{count}": [("SET", "k:str:most", *words)] * count
        for words in (("y", "GET"), ("y", "NX", "GET"))
        for count in (16, 1000)
    },
    "string that grows and is read": [
        ("SETRANGE", NEW, "8000000", "x"),
        *[("GET", NEW)] * 300,
    ],
    "strings that are made": [("SETRANGE", f"k:new:{n}", "1048575", "x") for n in range(900)],
    "pending entries that are freed": [("XGROUP", "DELCONSUMER", "k:stream:pending", "g", "c")],
    "as much as a gateway takes": [("SADD", NEW, *["x" * 6000 + str(n) for n in range(5000)])],
    "copy that is read": [("COPY", "k:set:names", NEW), *[("SMEMBERS", NEW)] * 200],
    "union that is read": [("SUNIONSTORE", NEW, "k:set:names"), *[("SMEMBERS", NEW)] * 200],
    "string that is appended to": [*[("APPEND", NEW, "x" * 100_000)] * 50, *[("GET", NEW)] * 300],
    "long element that moves": [("LMOVE", "k:list:mega", "k:list:mega", "LEFT", "RIGHT")] * 1000,
    "long field": [("HGET", MEGA, "f1")] * 1000,
    "long fields in one call": [("HMGET", MEGA, *["f1", "f2"] * 3000)],
    "long strings that are deleted": [("GETDEL", "k:str:long"), ("GETDEL", "k:str:other")],
    "few long elements": [("LRANGE", "k:list:mega", "0", "-1")] * 300,
    "long member that comes often": [("SRANDMEMBER", "k:set:mega", "-1000")],
    "set of long members, with itself": [("SINTER", *["k:set:mega"] * 5000)],
    "long members stored often": [("ZDIFFSTORE", NEW, "1", "k:zset:mega")] * 1000,
    "range of long members stored often": [
        ("ZRANGESTORE", NEW, "k:zset:mega", "0", "-1")
    ] * 1000,
    "stream that is read in many places": [
        ("XREAD", "COUNT", "1", "STREAMS", *["k:stream:mega"] * 500, *["0"] * 500)
    ],
    "long entry that is claimed often": [
        ("XCLAIM", "k:stream:mega", "g", "c", "0", *["1-1"] * 600, "FORCE")
    ],
    "blocking reader of many groups": [
        ("XREADGROUP", "GROUP", "g", "c", "BLOCK", "1", "STREAMS",
         *["k:stream:groups"] * 300, *[">"] * 300)
    ],
    "range before a stream": [("XREVRANGE", "k:stream:tiny", "-", "0", "COUNT", "1")] * 1000,
    "copy of pending entries": [("COPY", "k:stream:gone", NEW)],
    "unions with keys of other types": [
        ("SUNION", "k:set:small", "k:hash:tiny", "k:zset:many", "k:geo:near", "k:stream:tiny")
    ] * 100,
    "information about long entries": [("XINFO", "STREAM", "k:stream:wide")] * 1000,
    "estimates of long entries": [("XINFO", "GROUPS", "k:stream:mega")] * 400,
    "estimates that deny": [("XREAD", "STREAMS", "k:stream:pending", "5-5")] * 100,
    "glob with a long literal": [("SSCAN", "k:set:mega", "0", "MATCH", f"*{'a' * 300}b")],
    "common prefixes": [("SORT", "k:list:similar", "ALPHA")],
    "elements that point to long strings": [
        ("SORT", "k:list:names", "BY", "nosort", "GET", "k:str:*")
    ],
    "long strings to sort by": [("SORT", "k:list:names", "ALPHA", "BY", "k:str:*")],
    "long fields that are stored": [
        ("SORT", "k:list:names", "BY", "k:hash:*->f1", "GET", "k:hash:*->f1", "STORE", NEW)
    ],
    "long elements named often": [("SORT", "k:list:mega", "ALPHA", *["GET", "#"] * 3000)],
    "few pointers often": [("SORT", "k:list:short", "GET", "k:str:m*")] * 500,
    "string that grows and is sorted by": [
        ("SETRANGE", "k:new:1", "8000000", "x"),
        *[("SORT", "k:list:short", "GET", "k:new:*")] * 300,
    ],
    "two long strings": [("LCS", "k:str:mid", "k:str:mid")] * 12,
}  # fmt: skip


MODES = (BatchMode.EACH, BatchMode.ALL)
Example = tuple[Sequence[Call], BatchMode | None]


def known() -> Iterator[Example]:
    """Yield what took a server longer than a second, or hundreds of MiB, when it was found."""
    for attack in KNOWN.values():
        calls = [tuple(as_bytes(word) for word in argv) for argv in attack]
        yield from ((calls, mode) for mode in (MODES if len(calls) > 1 else [None]))


def drawn(field: Ground, share: int) -> Iterator[Example]:
    """Yield calls of every command, then batches of any; the same in every run by default."""
    salt = os.urandom(8).hex() if FACTOR > 1 else ""
    for name in field.names:
        for number in range(max(1, CALLS * FACTOR // share)):
            yield [hostile_call(field.draws(f"{name} {number} {salt}"), name)], None
    for number in range(BATCHES * FACTOR // share):
        draws = field.draws(f"batch {number} {salt}")
        yield hostile_batch(draws, field.names), draws.random.choice(MODES)


@pytest.mark.parametrize("label", find_server_binaries())
def test_no_call_or_batch_takes_more_than_the_default_bounds_allow(label: str) -> None:
    """50 ms of the server's main thread and 128 MiB at the most, on keys of up to 10 MB."""
    is_embedded = label == embedded_label()
    # Other workers take cores and caches; `make hostile` on a quiet machine allows no slack.
    with ground(label, 1 if is_embedded else SMALL, slack=3) as field:
        over = list(known())
        over += drawn(field, 1 if is_embedded else SHARE)
        for _ in range(ROUNDS):
            costs = [(field.fire(*example), example) for example in over]
            failures = [
                f"{cost}: {shown(*example)}" for cost, example in costs if field.is_too_much(cost)
            ]
            over = [example for cost, example in costs if field.is_too_much(cost)]

        assert not failures, "\n".join(failures)
        # Otherwise it would be about denials alone.
        assert field.denied < field.calls / 2


def as_bytes(word: str | bytes) -> bytes:
    return word if isinstance(word, bytes) else word.encode()
