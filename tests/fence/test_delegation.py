"""Delegation by agents with ACL users of their own."""

from __future__ import annotations

import pytest
import redis

import keyleash
from guard.test_bound_tokens import denied
from guard.test_delegation import AGENT
from keyleash.operator.tokens import list_tokens, revoke
from support.fences import FencedLeash
from support.leash import NAMES


def test_fenced_agent_makes_children_and_reaches_nothing_else(leash: FencedLeash) -> None:
    """Its user may do what the guard does to store a child, on its own keys alone."""
    leash.load(runner={**AGENT, "budget": {"reads": {"limit": "9/day", "per": "token"}}}, two=AGENT)
    leash.fence()
    root = leash.agent("runner")
    made = root.delegate(bind={"job_id": 42}, budget={"writes": 2}, meta={"run": "r-17"})
    child = leash.client(made.token, **leash.credentials("runner"))

    child.set("jobs:42:a", 1)
    assert denied(child.get, "jobs:43:a")["by"] == "token"
    leaf = leash.client(child.delegate().token, **leash.credentials("runner"))
    assert denied(leaf.set, "jobs:42:a", 1)["by"] == "ancestor"
    assert leaf.get("jobs:42:a") == b"1"
    assert len(list_tokens(leash.store, "runner")) == 3
    direct = leash.direct("runner")
    for call in (
        ("HSET", NAMES.tokens("runner"), "x", "{}"), ("HGETALL", NAMES.delegated("runner")),
        ("DEL", NAMES.delegated("runner")), ("HSET", NAMES.delegated("two"), "x", "{}"),
        ("SET", f"{NAMES.token_prefix('two')}x", "x"), ("SET", NAMES.state("runner"), "x"),
        ("XADD", NAMES.control, "*", "event", "delegate"),
        ("ZADD", f"{NAMES.children_prefix('two')}x", "1", "x"),
    ):  # fmt: skip
        with pytest.raises(redis.exceptions.NoPermissionError):
            direct.execute_command(*call)
    revoke(leash.store, token_id=root.whoami().token_id)
    with pytest.raises(keyleash.TokenRevokedError):
        leaf.get("jobs:42:a")
