"""Suspending fenced agents needs no further rights."""

from __future__ import annotations

import pytest
import redis

import keyleash
from keyleash.operator.suspension import freeze
from support.fences import FencedLeash
from support.leash import NAMES, grant

READ = {"grants": [grant("read", keys="a:*")]}
BREAKER = {"on_denials": {"threshold": "3/day", "suspend": "10m"}}


def test_fenced_agent_reads_but_cannot_write_the_reason_of_its_suspension(
    leash: FencedLeash,
) -> None:
    """Its guard reads the reason with the rights of the agent."""
    leash.load(one=READ)
    leash.fence()
    agent, direct = leash.agent("one"), leash.direct("one")

    assert agent.get("a:1") is None
    freeze(leash.store, "one", reason="incident 4107")
    with pytest.raises(keyleash.SuspendedError) as refusal:
        agent.get("a:1")
    assert refusal.value.reason == "incident 4107"
    with pytest.raises(redis.exceptions.NoPermissionError):
        direct.hset(NAMES.suspension("one"), "reason", "none")


def test_circuit_breaker_suspends_a_fenced_agent(leash: FencedLeash) -> None:
    """The breaker writes with the rights of the agent, and logs the suspension."""
    leash.load(one={**READ, **BREAKER}, two=READ)
    leash.fence()
    agent, direct = leash.agent("one"), leash.direct("one")

    for _ in range(3):
        with pytest.raises(keyleash.KeyNotGrantedError):
            agent.get("b")
    with pytest.raises(keyleash.SuspendedError) as refusal:
        agent.get("a:1")
    assert refusal.value.reason == "on_denials: 3/day"
    assert leash.denials("one")[-1]["code"] == "SUSPENDED"
    for name in (NAMES.refused("two"), NAMES.suspension("two")):
        with pytest.raises(redis.exceptions.NoPermissionError):
            direct.delete(name)
