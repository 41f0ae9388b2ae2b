"""A server clock that is ahead for a while and then corrected, and the reset of limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import keyleash
from keyleash.addons.servers import EmbeddedServer
from keyleash.audit.operator_actions import read_control
from keyleash.errors import SecretInTextError
from keyleash.operator.limit_reset import reset_limits
from keyleash.store.server_check import Client
from support.clocks import MovableClock
from support.errors import raises_code
from support.leash import NAMES, Leash, grant
from support.replication import wait_until
from support.servers import RealServer, find_server_binaries

ALL: dict[str, Any] = {
    "grants": [grant("read", "write", keys="doc:{{{kind}}}")],
    "token": {"ttl": "3d", "max_ttl": "3d"},
}
HOUR_S, DAY_S = 3600, 86_400
OVER = (keyleash.RateLimitedError, keyleash.BudgetExhaustedError)
RATE, BURST, BUDGET = "3/minute", {"limit": "3/minute", "burst": 3}, "3/day"
Move = Callable[[int], None]


@pytest.fixture(params=list(find_server_binaries()))
def moving(
    request: pytest.FixtureRequest, clock: Path, tmp_path: Path
) -> Iterator[tuple[Leash, Move]]:
    """A server of its own, and what puts its clock ahead."""
    movable = MovableClock(clock, tmp_path)
    binary = movable.starter(find_server_binaries()[request.param])
    with EmbeddedServer(binary=binary) as process:
        server = RealServer(request.param, process)
        leash = Leash(server)

        def move(ahead_s: int) -> None:
            movable.move(ahead_s)
            wait_until(lambda: is_ahead(leash.admin, ahead_s))

        yield leash, move
        server.close_clients()


def is_ahead(admin: Client, ahead_s: int) -> bool:
    """Return whether keys already expire by the clock: a server reads it once a turn."""
    expires_ms = int((time.time() + ahead_s + 1000) * 1000)
    admin.set("probe", "x", pxat=expires_ms)
    return abs(int(admin.pttl("probe")) - 1_000_000) < 60_000


def passed(agent: keyleash.Redis, attempts: int = 10, key: str = "doc:{a}") -> int:
    """Return the number of writes that were allowed."""
    done = 0
    for _ in range(attempts):
        try:
            agent.set(key, "x")
            done += 1
        except OVER:
            pass
    return done


def counters(leash: Leash) -> dict[bytes, bytes]:
    return {key: leash.admin.get(key) for key in leash.counters()}


@pytest.mark.parametrize("per", ["identity", "token"])
@pytest.mark.parametrize(
    "limit",
    [
        {"rate": {"writes": {"limit": "3/minute"}}},
        {"rate": {"writes": {"limit": "3/hour"}}},
        {"rate": {"writes": {"limit": "3/hour", "burst": 3}}},
        {"budget": {"writes": {"limit": "3/day"}}},
        {"budget": {"writes": {"limit": "3/month"}}},
    ],
    ids=["minute", "hour", "burst", "day", "month"],
)
def test_clock_a_day_ahead_and_back_refills_no_counter_of_a_subject(
    moving: tuple[Leash, Move], limit: dict[str, Any], per: str
) -> None:
    """Their keys expire by the server's clock, and must outlast its being wrong."""
    leash, move = moving
    ((group, limits),) = limit.items()
    leash.load(one={**ALL, group: {"writes": {**limits["writes"], "per": per}}})
    agent = leash.agent("one")
    assert passed(agent) == 3
    before = counters(leash)

    move(DAY_S)
    # Both what a look at a key and what the server's own rounds find to be expired.
    assert counters(leash) == before
    move(0)

    assert passed(agent) == 0
    if per == "token":
        assert passed(leash.agent("one"), key="doc:{b}") == 3


@pytest.mark.parametrize("per", ["identity", "token", "{kind}"])
@pytest.mark.parametrize(
    ("group", "limit"),
    [("rate", {"limit": "3/minute"}), ("rate", BURST), ("budget", {"limit": "3/day"})],
    ids=["ring", "gcra", "budget"],
)
def test_calls_during_a_step_count_and_a_reset_ends_the_denials(
    moving: tuple[Leash, Move], group: str, limit: dict[str, Any], per: str
) -> None:
    """Ahead there is a window of its own; corrected, its calls deny until a reset."""
    leash, move = moving
    ours = {**ALL, group: {"writes": {**limit, "per": per}}}
    leash.load(one=ours, two=ours)
    agent, other = leash.agent("one"), leash.agent("two")
    assert passed(agent) == passed(other) == 3

    ahead_s = 7 * HOUR_S if group == "rate" else DAY_S
    move(ahead_s)
    assert passed(agent) == passed(other) == 3
    move(0)
    assert passed(agent) == passed(other) == 0
    with pytest.raises(OVER) as denial:
        agent.set("doc:{a}", "x")
    if isinstance(denial.value, keyleash.RateLimitedError):
        assert denial.value.retry_after_ms > (ahead_s - 60) * 1000
    done = reset_limits(leash.store, "one", reason="the clock was ahead")

    assert done.limits == (f"{group}.writes",)
    assert done.counters == (per != "identity")
    assert passed(agent) == 3
    assert passed(other) == 0


def limited(**more: Any) -> dict[str, Any]:
    per_token = {"limit": "3/minute", "per": "token"}
    return {
        **ALL,
        "rate": {"requests": RATE, "writes": per_token, "reads": {**BURST, "per": "{kind}"}},
        "budget": {"requests": BUDGET, "writes": {"limit": "3/month", "per": "{kind}"}},
        **more,
    }


@pytest.mark.parametrize(
    "name", ["rate.requests", "rate.writes", "rate.reads", "budget.requests", "budget.writes"]
)
def test_reset_of_one_limit_leaves_the_others(leash: Leash, name: str) -> None:
    """Rings, GCRA and budgets of an identity, a token and a captured segment."""
    leash.load(one=limited(), two=limited())
    for agent in (leash.agent("one"), leash.agent("two")):
        for kind in ("a", "b"):
            agent.set(f"doc:{{{kind}}}", "x")
    leash.agent("one").get("doc:{a}")
    state, before = leash.state("one"), counters(leash)
    own = {*leash.counters("one", name)}
    theirs = leash.state("two")

    done = reset_limits(leash.store, "one", name, reason="why")

    assert done.limits == (name,)
    gone = before.keys() - counters(leash).keys()
    assert gone == own
    assert done.counters == len(gone)
    assert (leash.state("one") == state) == bool(gone)
    assert leash.state("one")[:24] == state[:24]
    assert leash.state("two") == theirs


def test_reset_of_all_limits_is_on_record_as_an_operator_action(leash: Leash) -> None:
    """Who, which limits, how many counters and why; the next calls count from 0."""
    leash.load(one=limited())
    agent = leash.agent("one")
    assert passed(agent) == 3

    done = reset_limits(replace(leash.store, actor="oncall"), "one", reason="incident 4107")

    assert passed(agent) == 3
    *_, event = read_control(leash.store)
    assert (event.id, event.event, event.actor) == (done.event, "reset-limits", "oncall")
    assert event.identities == {"one"}
    assert event.details == {
        "identity": "one",
        "limits": "rate.requests,rate.reads,rate.writes,budget.requests,budget.writes",
        "counters": "2",
        "reason": "incident 4107",
    }


@pytest.mark.parametrize("stored", [b"\xff" * 8, b"\0\0\0\0\0\0\xf0\x7f"], ids=["nan", "infinity"])
def test_reset_clears_corrupt_counters(leash: Leash, stored: bytes) -> None:
    """Of the identity, a token and a captured segment, whatever bytes they hold."""
    leash.load(one=limited())
    agent = leash.agent("one")
    agent.set("doc:{a}", "x")
    for place in range(24, len(leash.state("one")), 8):
        leash.admin.setrange(NAMES.state("one"), place, stored)
    for key in counters(leash):
        leash.admin.set(key, stored[:5])
    with pytest.raises(keyleash.CounterCorruptError):
        agent.set("doc:{a}", "x")

    reset_limits(leash.store, "one", reason="the counter was overwritten")

    assert passed(agent) == 3


@pytest.mark.parametrize("per", ["identity", "token", "{kind}"])
@pytest.mark.parametrize("limit", [{"rate": {"writes": {"limit": "40/hour"}}},
                                   {"budget": {"writes": {"limit": "40/month"}}}],
                         ids=["ring", "budget"])  # fmt: skip
def test_reset_during_concurrent_calls_is_exact(
    leash: Leash, limit: dict[str, Any], per: str
) -> None:
    """Each reset gives one window more, and no call is forgotten twice or counted for nothing."""
    ((group, limits),) = limit.items()
    leash.load(one={**ALL, group: {"writes": {**limits["writes"], "per": per}}})
    token, resets, calls = leash.issue("one").token, 3, 100
    done: list[int] = []

    def work() -> None:
        with leash.client(token) as agent:
            done.append(passed(agent, calls))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(resets):
        reset_limits(leash.store, "one", reason="test")
    for thread in threads:
        thread.join()
    with leash.client(token) as agent:
        done.append(passed(agent, calls))

    # A reset before the window is full gives back less than a whole one.
    assert 40 <= sum(done) <= 40 * (resets + 1)
    reset_limits(leash.store, "one", reason="test")
    with leash.client(token) as agent:
        assert passed(agent, calls) == 40


def test_reset_deletes_many_counters_in_pieces(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one script deletes, and only the first one is on record."""
    monkeypatch.setattr("keyleash.operator.limit_reset.PIECE", 3)
    leash.load(one=limited(rate={"writes": {"limit": "9/minute", "per": "{kind}"}}, budget={}))
    agent = leash.agent("one")
    for kind in range(8):
        agent.set(f"doc:{{{kind}}}", "x")

    done = reset_limits(leash.store, "one", reason="why")

    assert (done.counters, counters(leash)) == (8, {})
    assert sum(event.event == "reset-limits" for event in read_control(leash.store)) == 1


def test_reset_of_what_is_not_there_changes_nothing(leash: Leash) -> None:
    """And says what there is."""
    with raises_code("no-policy"):
        reset_limits(leash.store, "one", reason="why")
    leash.load(one=limited(), free={**ALL})
    passed(leash.agent("one"))
    before = leash.spent("one")

    with raises_code("unknown-identity") as unknown:
        reset_limits(leash.store, "onee", reason="why")
    assert "one" in str(unknown.value.help)
    with raises_code("unknown-limit") as limit:
        reset_limits(leash.store, "one", "rate.write", reason="why")
    assert "rate.writes" in str(limit.value.help)
    with raises_code("unknown-limit"):
        reset_limits(leash.store, "free", reason="why")
    with pytest.raises(SecretInTextError):
        reset_limits(leash.store, "one", reason=f"of {leash.issue('one').token}")
    for reason in ("", " ", "ä" * 65):
        with pytest.raises(ValueError, match="reason"):
            reset_limits(leash.store, "one", reason=reason)
    assert leash.spent("one") == before
    assert "reset-limits" not in {event.event for event in read_control(leash.store)}
