"""Being suspended: the number in the state that says so, and until when."""

from __future__ import annotations

import struct
from typing import Any

import pytest

import keyleash
from keyleash.compiler.templates import operator_script
from keyleash.protocol.state import Layout, unpack_state
from support.leash import NAMES, Leash, grant

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="doc:*")]}


def now_us(leash: Leash) -> int:
    seconds, micros = leash.admin.time()
    return int(seconds) * 1_000_000 + int(micros)


def write_suspended(leash: Leash, identity: str, number: float) -> None:
    leash.admin.setrange(NAMES.state(identity), 8, struct.pack("<d", number))


def suspended(leash: Leash, identity: str) -> int:
    layout = Layout.from_json(leash.admin.hget(NAMES.layouts, identity))
    return unpack_state(leash.state(identity), layout).suspended


def test_number_of_a_suspension_is_until_it_is_ended_or_until_its_time(leash: Leash) -> None:
    """What is 1 has no end; a time is told; and a hold is a refusal whatever it stands for."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    until_us = now_us(leash) + 3_600_000_500

    for number, said in (
        (1, "LEASH SUSPENDED"),
        (until_us, f"LEASH SUSPENDED until_ms={-(-until_us // 1000)}"),
        (-1, "LEASH SUSPENDED"),
        (-2, "LEASH SUSPENDED"),
        (-1 - until_us, "LEASH SUSPENDED"),
    ):
        write_suspended(leash, "one", number)
        assert leash.call("one", token, "GET", "doc:1") == said
        assert leash.batch("one", token, "each", ("GET", "doc:1")) == said
        assert suspended(leash, "one") == number


def test_suspension_whose_time_is_over_is_none_and_is_forgotten(leash: Leash) -> None:
    """The call that finds it over goes through, and the next one needs no look at the clock."""
    leash.load(one=ALL)
    token = leash.issue("one").token

    write_suspended(leash, "one", now_us(leash) - 1)
    assert leash.call("one", token, "GET", "doc:1") is None
    assert suspended(leash, "one") == 0
    write_suspended(leash, "one", now_us(leash) - 1)
    assert leash.batch("one", token, "all", ("GET", "doc:1")) == [None]
    assert suspended(leash, "one") == 0


@pytest.mark.parametrize(
    ("held", "before"), [(2, 0), (3, 1), (-1, 0), (-2, 1), (-1 - 2**50, 2**50), (0, 0), (1, 1)]
)
def test_end_of_a_hold_gives_back_what_was_before(leash: Leash, held: int, before: int) -> None:
    """A change of prefixes that an earlier version began held with 2 and 3."""
    leash.load(one=ALL)
    write_suspended(leash, "one", held)
    leash.admin.hset(NAMES.sealed, mapping={"change": "unseal", "phase": "switched"})

    leash.admin.eval(operator_script("end_switch.lua", NAMES), 0, "ops")

    assert suspended(leash, "one") == before


def test_suspension_until_a_time_outlasts_a_load(leash: Leash) -> None:
    """A new policy lets nobody act sooner."""
    leash.load(one=ALL)
    agent = leash.agent("one")
    until_us = now_us(leash) + 3_600_000_000
    write_suspended(leash, "one", until_us)

    leash.load(one={**ALL, "budget": {"requests": "5/day"}})

    assert suspended(leash, "one") == until_us
    with pytest.raises(keyleash.SuspendedError) as refusal:
        agent.get("doc:1")
    assert refusal.value.details == {"until_ms": str(-(-until_us // 1000))}
