"""Idempotency ids of fenced agents: the guard remembers calls with the rights of the agent."""

from __future__ import annotations

import pytest
import redis

import keyleash
from support.fences import FencedLeash
from support.leash import NAMES, grant

ONCE = {
    "grants": [grant("read", "write", keys="a:*")],
    "idempotency": {"keep": "1h", "max_reply": "1kb"},
}


def test_fenced_agent_repeats_its_calls_by_id(leash: FencedLeash) -> None:
    """And reaches remembered calls of its own identity alone."""
    leash.load(one=ONCE, two=ONCE)
    leash.fence()
    agent, direct = leash.agent("one"), leash.direct("one")

    for _ in range(2):
        with keyleash.once("a"):
            assert [agent.incr("a:n"), agent.set("a:k", "v")] == [1, True]
        with agent.batch(once="b") as batch:
            batch.incr("a:m")
            batch.incr("a:m")
        assert batch.results == [1, 2]
    with keyleash.once("a"), pytest.raises(keyleash.IdempotencyConflictError):
        agent.incr("a:m")
    with pytest.raises(redis.exceptions.NoPermissionError):
        direct.get(f"{NAMES.once_prefix('two')}x")
    with pytest.raises(redis.exceptions.NoPermissionError):
        direct.delete(f"{NAMES.once_prefix('one')}x")
