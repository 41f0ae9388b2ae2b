"""Fenced agents on a server with modules."""

from __future__ import annotations

import pytest
from redis.exceptions import NoPermissionError

import keyleash
from support.fences import FencedLeash
from support.leash import grant
from support.servers import RealServer


def test_json_of_a_fenced_agent_stays_within_its_grants(stack_server: RealServer) -> None:
    """The server wants both permissions for each call, and checks one key of JSON.MGET."""
    leash = FencedLeash(stack_server)
    grants = [grant("read", keys="kb:*"), grant("write", "delete", keys="mem:*")]
    leash.load(one={"grants": grants, "audit": {"before_images": {"max_bytes": "64kb"}}})
    outcome = leash.fence()
    leash.admin.execute_command("JSON.MSET", "kb:1", "$", "{}", "hr:1", "$", "{}")
    agent, direct = leash.agent("one"), leash.direct("one")

    assert "JSON.MGET" in str(outcome.notes)
    assert agent.execute_command("JSON.GET", "kb:1", "$..*") == b"[]"
    assert agent.execute_command("JSON.SET", "mem:1", "$", '{"a":1}')
    assert agent.execute_command("JSON.DEL", "mem:1", "$.*") == 1
    assert agent.execute_command("BF.ADD", "mem:b", "a") == 1
    leash.admin.execute_command("TS.CREATE", "kb:s")
    assert agent.execute_command("TS.RANGE", "kb:s", "-", "+") == []
    with pytest.raises(keyleash.ClassNotGrantedError):
        agent.execute_command("JSON.GET", "mem:1")
    with pytest.raises(keyleash.ClassNotGrantedError):
        agent.execute_command("JSON.SET", "kb:1", "$", "1")
    for words in (
        ("JSON.GET", "mem:1"),
        ("JSON.SET", "kb:1", "$", "1"),
        ("JSON.GET", "hr:1"),
        ("JSON.MGET", "kb:1", "hr:1", "$"),
        ("CMS.MERGE", "mem:2", "1", "hr:1"),
        ("TS.CREATERULE", "mem:3", "hr:2", "AGGREGATION", "sum", "1"),
    ):
        with pytest.raises(NoPermissionError):
            direct.execute_command(*words)
