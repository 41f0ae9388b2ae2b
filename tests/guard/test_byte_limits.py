"""Limits that count bytes: of the arguments of writes, and of the replies of reads."""

from __future__ import annotations

from typing import Any

import pytest

import keyleash
from support.leash import Leash, grant
from support.servers import RealServer

GRANTS = [grant("read", "write", "delete", keys="doc:*")]
VALUE = "x" * 93
"""With the key `doc:{a}`, a SET writes 100 bytes."""


def agent_of(server: RealServer, **limits: Any) -> tuple[Leash, Any]:
    leash = Leash(server)
    leash.load(one={"grants": GRANTS, **limits})
    return leash, leash.agent("one")


def left(agent: Any, name: str) -> Any:
    return next(item.left for item in agent.whoami().limits if item.name == name)


@pytest.mark.parametrize("per", ["identity", "token", "{id}"])
def test_budget_of_bytes_written_allows_that_many_bytes(server: RealServer, per: str) -> None:
    """Arguments count with the keys, of writes alone; a call that does not fit takes nothing."""
    leash = Leash(server)
    grants = [grant("read", "write", keys="doc:{{{id}}}")]
    leash.load(
        one={"grants": grants, "budget": {"bytes_written": {"limit": "1kb/day", "per": per}}}
    )
    agent: Any = leash.agent("one")

    for _ in range(10):
        agent.set("doc:{a}", VALUE)
    agent.get("doc:{a}")
    with pytest.raises(keyleash.BudgetExhaustedError) as denied:
        agent.set("doc:{a}", VALUE)
    assert denied.value.details["limit"] == "budget.bytes_written"
    agent.set("doc:{a}", "x" * 17)
    with pytest.raises(keyleash.BudgetExhaustedError):
        agent.append("doc:{a}", "")
    if per != "{id}":
        assert left(agent, "budget.bytes_written") == 0
    with pytest.raises(keyleash.ValueRefusedError) as large:
        agent.set("doc:{b}", "x" * 2000)
    assert (large.value.rule, large.value.limit, large.value.was) == (
        "budget.bytes_written", "1024", "2007",
    )  # fmt: skip


@pytest.mark.parametrize("per", ["identity", "token"])
def test_rate_of_bytes_written_allows_a_burst(server: RealServer, per: str) -> None:
    """A thousand bytes at once, then as many a day."""
    rate = {"bytes_written": {"limit": "1000b/day", "burst": "1000b", "per": per}}
    _, agent = agent_of(server, rate=rate)

    for _ in range(9):
        agent.set("doc:{a}", VALUE)
    with pytest.raises(keyleash.RateLimitedError) as denied:
        agent.set("doc:{a}", VALUE + VALUE)
    assert denied.value.retry_after_ms > 7_000_000
    agent.set("doc:{a}", VALUE)
    with pytest.raises(keyleash.RateLimitedError):
        agent.set("doc:{a}", "x")
    with pytest.raises(keyleash.ValueRefusedError):
        agent.set("doc:{a}", "x" * 1000)


@pytest.mark.parametrize("per", ["identity", "token"])
@pytest.mark.parametrize(
    "limit", [{"budget": {"limit": "1kb/day"}}, {"rate": {"limit": "1kb/day", "burst": "1kb"}}],
    ids=str,
)  # fmt: skip
def test_bytes_read_are_counted_behind_the_reply(
    server: RealServer, per: str, limit: dict[str, Any]
) -> None:
    """A read is allowed while anything is left, so at most one reply is beyond."""
    limits = {kind: {"bytes_read": {**values, "per": per}} for kind, values in limit.items()}
    leash, agent = agent_of(server, **limits)
    leash.admin.set("doc:{a}", "x" * 500)
    leash.admin.rpush("doc:l", "y" * 20, "z" * 20)
    name = f"{next(iter(limit))}.bytes_read"

    assert agent.get("doc:{a}")
    # A rate of bytes counts whole microseconds, and refills.
    assert left(agent, name) in (523, 524)
    assert agent.lrange("doc:l", 0, -1)
    assert agent.incr("doc:n") == 1
    assert left(agent, name) in (483, 484)
    pipe = agent.pipeline(transaction=False)
    for _ in range(4):
        pipe.get("doc:{a}")
    pipe.set("doc:b", "1")
    replies = pipe.execute(raise_on_error=False)
    assert [len(reply) for reply in replies[:1]] == [500]
    assert all(isinstance(reply, keyleash.LeashError) for reply in replies[1:4])
    assert replies[4] is True
    with pytest.raises((keyleash.BudgetExhaustedError, keyleash.RateLimitedError)):
        agent.get("doc:{a}")
    agent.set("doc:c", "x")


def test_script_counts_the_bytes_of_its_commands(server: RealServer) -> None:
    """Each command of an approved script is checked before it runs."""
    leash = Leash(server)
    grants = [{**grant("read", "write", "delete", keys="doc:*"), "scripts": ["redis-py-lock"]}]
    budget = {"bytes_written": "100b/day", "bytes_read": "100b/day"}
    leash.load(one={"grants": grants, "budget": budget})
    agent: Any = leash.agent("one")
    with agent.lock("doc:l", timeout=5):
        pass
    before = left(agent, "budget.bytes_read")
    assert before < 100
    lock = agent.lock("doc:l", timeout=5)
    lock.acquire()
    lock.extend(1)
    assert left(agent, "budget.bytes_written") < 100 - 2 * len("doc:l")
