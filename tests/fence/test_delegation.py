"""Delegation by agents with ACL users of their own."""

from __future__ import annotations

import pytest
import redis

import keyleash
from guard.test_bound_tokens import denied
from guard.test_delegation import AGENT
from keyleash.operator.tokens.list import list_tokens
from keyleash.operator.tokens.revoke import PIECE, revoke
from keyleash.store.token import token_digest
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


def test_revocation_of_an_identity_ends_records_that_an_agent_wrote(leash: FencedLeash) -> None:
    """They have no entry, so their ids are not known."""
    leash.load(runner=AGENT)
    leash.fence()
    issued = leash.issue("runner")
    forged = "kl_runner_" + "x" * 32
    name = NAMES.token("runner", token_digest(issued.token))
    direct, record = leash.direct("runner"), leash.admin.get(name)
    written = NAMES.token("runner", token_digest(forged))
    expires = leash.admin.pexpiretime(name)
    direct.execute_command("SET", written, record, "PXAT", expires)
    for number in range(PIECE):
        direct.execute_command("SET", f"{written[:-3]}{number:03}", record, "PXAT", expires)
    agent = leash.client(forged, **leash.credentials("runner"))
    agent.set("shared:a", 1)

    assert revoke(leash.store, token_id=issued.id).unlisted == 0
    agent.set("shared:a", 1)
    assert revoke(leash.store, identity="runner").unlisted == PIECE + 1
    assert denied(agent.get, "shared:a")["code"] == "TOKEN_REVOKED"
    assert revoke(leash.store, all=True).unlisted == 0
