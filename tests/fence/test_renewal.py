"""A fenced agent renews its token through its guard, and cannot change what decides it."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from support.fences import FencedLeash
from support.leash import NAMES, grant
from support.renewal import HOUR_MS, pass_time, record_of

RUNNER: dict[str, Any] = {
    "token": {"ttl": "1h", "max_ttl": "4h", "renew": True},
    "grants": [grant("read", "write", keys="doc:*")],
}


def test_fenced_agent_renews_its_token_up_to_max_ttl(leash: FencedLeash) -> None:
    """The time of the issue is where the agent may read it and not write."""
    leash.load(one=RUNNER, two={"grants": [grant("read", keys="doc:*")]})
    leash.fence()
    issued, other = leash.issue("one"), leash.issue("two")
    pass_time(leash, issued.token, 0.5)
    agent = leash.client(issued.token, **leash.credentials("one"))
    direct = leash.direct("one")

    renewal = agent.renew("9h")

    latest_ms = issued.expires_ms - HOUR_MS // 2 + 3 * HOUR_MS
    assert (renewal.expires_ms, renewal.capped) == (latest_ms, True)
    assert record_of(leash, issued.token)[0].expires_us == latest_ms * 1000
    assert agent.get("doc:1") is None
    for command in (
        ("HSET", NAMES.tokens("one"), issued.id, "{}"),
        ("HDEL", NAMES.tokens("one"), issued.id),
        ("HGET", NAMES.tokens("two"), other.id),
        ("XADD", NAMES.control, "*", "event", "renew"),
        ("HGETALL", NAMES.tokens("one")),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            direct.execute_command(*command)


def test_fence_of_others_is_as_before(leash: FencedLeash) -> None:
    """Only users of identities with `renew` may read the hash of tokens."""
    leash.load(two={"grants": [grant("read", keys="doc:*")]})
    leash.fence()
    issued = leash.issue("two")

    with pytest.raises(redis.exceptions.NoPermissionError):
        leash.direct("two").hget(NAMES.tokens("two"), issued.id)
