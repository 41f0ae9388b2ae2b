"""No call or batch of an agent holds a server for long or fills its memory, whatever its keys."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from hostile.calls import Call, hostile_batch, hostile_call
from hostile.campaign import shown
from hostile.ground import Ground, ground
from keyleash.protocol.request import BatchMode
from support.servers import embedded_label, find_server_binaries
from support.thorough import FACTOR

CALLS, BATCHES = 2, 150
"""Of each command, and of all; on the embedded server, the others get a share."""
SHARE = 4
SMALL = 0.2
"""How many elements the keys of the other servers have."""


@pytest.fixture(scope="module", params=list(find_server_binaries()))
def field(request: pytest.FixtureRequest) -> Iterator[tuple[Ground, int]]:
    """A server with hostile keys, and by what the number of examples is divided."""
    is_embedded = request.param == embedded_label()
    with ground(request.param, 1 if is_embedded else SMALL) as found:
        yield found, 1 if is_embedded else SHARE


def seed_of(name: str, number: int) -> str:
    """Return a seed that is the same in every run, or with `KEYLEASH_THOROUGH` another."""
    return f"{name} {number} {os.urandom(8).hex() if FACTOR > 1 else ''}"


def test_call_of_any_command_stays_within_bounds(field: tuple[Ground, int]) -> None:
    """With the default bounds, 50 ms of the server's main thread and 128 MiB at the most."""
    found, share = field
    failures = []
    for name in found.names:
        for number in range(max(1, CALLS * FACTOR // share)):
            draws = found.draws(seed_of(name, number))
            failures += over(found, [hostile_call(draws, name)], None)

    assert not failures, "\n".join(failures)
    # Otherwise it would be about denials alone.
    assert found.denied < found.calls / 2


def test_batch_of_any_commands_stays_within_bounds(field: tuple[Ground, int]) -> None:
    """One budget of work is shared by the commands of a batch, also as they change sizes."""
    found, share = field
    failures = []
    for number in range(BATCHES * FACTOR // share):
        draws = found.draws(seed_of("batch", number))
        mode = draws.random.choice([*BatchMode])
        failures += over(found, hostile_batch(draws, found.names), mode)

    assert not failures, "\n".join(failures)


MEGA = b"k:hash:mega"
NEW = b"k:new:0"
KNOWN: dict[str, Sequence[tuple[Any, ...]]] = {
    "one string read often": [("GET", "k:str:long")] * 500,
    "string that grows and is read": [
        ("SETRANGE", NEW, "8000000", "x"),
        *[("GET", NEW)] * 300,
    ],
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
    "estimates that deny": [("XREAD", "STREAMS", "k:stream:pending", "5-5")] * 100,
    "glob with a long literal": [("SSCAN", "k:set:mega", "0", "MATCH", f"*{'a' * 300}b")],
    "common prefixes": [("SORT", "k:list:alike", "ALPHA")],
    "two long strings": [("LCS", "k:str:mid", "k:str:mid")] * 12,
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_attack_stays_within_bounds(field: tuple[Ground, int], name: str) -> None:
    """Each of these took a server longer than a second, or hundreds of MiB, when it was found."""
    found, _ = field
    calls = [tuple(as_bytes(word) for word in argv) for argv in KNOWN[name]]

    for mode in (BatchMode.EACH, BatchMode.ALL) if len(calls) > 1 else (None,):
        assert not over(found, calls, mode)


def as_bytes(word: str | bytes) -> bytes:
    return word if isinstance(word, bytes) else word.encode()


def over(found: Ground, calls: Sequence[Call], mode: BatchMode | None) -> list[str]:
    """Return what a call or batch took, if that is too much."""
    cost = found.fire(calls, mode)
    return [f"{cost}: {shown(calls, mode)}"] if found.is_too_much(cost) else []
