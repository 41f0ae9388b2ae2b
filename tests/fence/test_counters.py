"""A fenced agent writes its counters directly."""

from __future__ import annotations

import struct
from typing import Any

import pytest

import keyleash
from keyleash.operator.limit_reset import reset_limits
from support.fences import FencedLeash
from support.leash import grant

PER = ["token", "{kind}"]


def policy(rate: Any, per: str) -> dict[str, Any]:
    limits = {"rate": {"writes": {**rate, "per": per}}}
    return {"grants": [grant("read", "write", keys="doc:{kind}")], **limits}


@pytest.mark.parametrize("per", PER)
def test_forged_ring_size_is_denied(leash: FencedLeash, per: str) -> None:
    """24 forged bytes would make a guard allocate 2^24 slots."""
    leash.load(one=policy({"limit": "3/minute"}, per))
    leash.fence()
    agent, direct = leash.agent("one"), leash.direct("one")
    agent.set("doc:a", "x")
    (key,) = leash.admin.keys("keyleash:limit:*")
    before = leash.admin.info()

    direct.setrange(key, 0, struct.pack("<3d", 0, 2**24, 60_000_000))
    for _ in range(3):
        with pytest.raises(keyleash.CounterCorruptError):
            agent.set("doc:a", "x")

    after = leash.admin.info()
    assert after["used_cpu_user"] - before["used_cpu_user"] < 1
    assert after["used_memory_peak"] - before["used_memory_peak"] < 2**24
    assert after["used_memory_lua"] - before["used_memory_lua"] < 2**24
    reset_limits(leash.store, "one", reason="it wrote its own counter")
    assert agent.set("doc:a", "x")


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("before", [{"limit": "2/hour"}, {"limit": "2/hour", "burst": 2}])
@pytest.mark.parametrize("after", [{"limit": "2/day"}, {"limit": "2/day", "burst": 2}])
def test_counter_of_another_policy_is_migrated_with_the_rights_of_its_agent(
    leash: FencedLeash, before: dict[str, Any], after: dict[str, Any], per: str
) -> None:
    """A guard reads no more of it than its user may."""
    leash.load(one=policy(before, per))
    leash.fence()
    agent = leash.agent("one")
    for _ in range(2):
        agent.set("doc:a", "x")

    leash.load(one=policy(after, per))

    with pytest.raises(keyleash.RateLimitedError):
        agent.set("doc:a", "x")
