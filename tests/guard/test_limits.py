"""Rates and budgets: exact, all or nothing, and with honest times to wait."""

from __future__ import annotations

import time
from collections import deque
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import keyleash
from support.leash import Leash, grant

ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="doc:*")]}


def passed(agent: keyleash.Redis, attempts: int, *command: str) -> int:
    """Return the number of equal calls that were allowed."""
    done = 0
    for _ in range(attempts):
        try:
            agent.execute_command(*command)
            done += 1
        except (keyleash.RateLimitedError, keyleash.BudgetExhaustedError):
            pass
    return done


@pytest.mark.parametrize(
    "limit",
    [
        {"rate": {"requests": "1/hour"}},
        {"rate": {"requests": {"limit": "1/hour", "burst": 1}}},
        {"budget": {"requests": "1/month"}},
    ],
    ids=["ring", "gcra", "budget"],
)
def test_limit_of_one_allows_one(leash: Leash, limit: dict[str, Any]) -> None:
    """Not none, and not two."""
    leash.load(one={**ALL, **limit})

    assert passed(leash.agent("one"), 3, "GET", "doc:1") == 1


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        ({"rate": {"writes": "5/hour"}}, 5),
        ({"rate": {"writes": {"limit": "600/hour", "burst": 7}}}, 7),
        ({"budget": {"writes": "4/month"}}, 4),
    ],
    ids=["ring", "gcra", "budget"],
)
def test_limit_on_writes_counts_writes_alone(
    leash: Leash, limit: dict[str, Any], allowed: int
) -> None:
    """Reads and deletes pass beside a spent limit on writes."""
    leash.load(one={**ALL, **limit})
    agent = leash.agent("one")

    assert passed(agent, allowed + 5, "SET", "doc:1", "x") == allowed
    assert passed(agent, 3, "GET", "doc:1") == 3
    assert passed(agent, 3, "DEL", "doc:1") == 3


@pytest.mark.parametrize(
    ("command", "counters"),
    [
        (("SET", "doc:{d}1", "x"), {"requests", "writes"}),
        (("GET", "doc:{d}1"), {"requests", "reads"}),
        (("INCR", "doc:{d}n"), {"requests", "reads", "writes"}),
        (("SET", "doc:{d}1", "x", "GET"), {"requests", "reads", "writes"}),
        (("LPOP", "doc:{d}l"), {"requests", "reads", "deletes"}),
        (("COPY", "doc:{d}1", "doc:{d}2"), {"requests", "reads", "writes"}),
        (("MSET", "doc:{d}1", "x", "doc:{d}2", "y"), {"requests", "writes"}),
        (("EXISTS", "doc:{d}1"), {"requests"}),
        (("PING",), {"requests"}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_call_counts_once_for_each_class_it_needs(
    leash: Leash, command: tuple[str, ...], counters: set[str]
) -> None:
    """However many keys it has."""
    names = ("requests", "reads", "writes", "deletes")
    leash.load(one={**ALL, "budget": dict.fromkeys(names, "100/month")})

    leash.agent("one").execute_command(*command)
    used = leash.used("one")
    assert {name for name in names if used[f"budget.{name}"] == 1} == counters
    assert set(used.values()) <= {0, 1}


def test_refused_call_consumes_nothing(leash: Leash) -> None:
    """Not for its key, not for its class, not for another limit."""
    leash.load(
        one={
            **ALL,
            "rate": {"writes": {"limit": "60/hour", "burst": 2}},
            "budget": {"requests": "5/month"},
        }
    )
    agent = leash.agent("one")
    passed(agent, 2, "SET", "doc:1", "x")
    before = leash.spent("one")

    for command in [("SET", "other", "x"), ("NOSUCH",), ("SET", "doc:1", "x")]:
        with pytest.raises(keyleash.LeashError):
            agent.execute_command(*command)
    assert leash.spent("one") == before
    assert passed(agent, 9, "GET", "doc:1") == 3


def test_limits_are_taken_all_or_none(leash: Leash) -> None:
    """A call that the last limit refuses has not touched the first."""
    leash.load(one={**ALL, "rate": {"requests": "10/hour"}, "budget": {"writes": "3/month"}})
    agent = leash.agent("one")

    assert passed(agent, 20, "SET", "doc:1", "x") == 3
    assert passed(agent, 20, "GET", "doc:1") == 7


def test_two_limits_never_share_state(leash: Leash) -> None:
    """Neither two of an identity, nor the same of two identities."""
    both = {**ALL, "rate": {"reads": "2/hour", "writes": "3/hour"}, "budget": {"reads": "9/month"}}
    leash.load(one=both, two=both)

    for identity in ("one", "two"):
        agent = leash.agent(identity)
        assert passed(agent, 9, "GET", "doc:1") == 2
        assert passed(agent, 9, "SET", "doc:1", "x") == 3


def test_new_token_resets_no_limit_of_the_identity(leash: Leash) -> None:
    """The default subject is the identity, so that rotating tokens gains nothing."""
    leash.load(one={**ALL, "rate": {"requests": "3/hour"}, "budget": {"requests": "5/month"}})

    assert sum(passed(leash.agent("one"), 2, "GET", "doc:1") for _ in range(4)) == 3


@pytest.mark.parametrize(
    "limit",
    [
        {"rate": {"requests": {"limit": "2/hour", "per": "token"}}},
        {"rate": {"requests": {"limit": "2/hour", "burst": 2, "per": "token"}}},
        {"budget": {"requests": {"limit": "2/month", "per": "token"}}},
    ],
    ids=["ring", "gcra", "budget"],
)
def test_limit_per_token_counts_each_token_apart(leash: Leash, limit: dict[str, Any]) -> None:
    """For identities that many agents share."""
    leash.load(one={**ALL, **limit})
    first, second = leash.agent("one"), leash.agent("one")

    assert passed(first, 5, "GET", "doc:1") == 2
    assert passed(second, 5, "GET", "doc:1") == 2


@pytest.mark.parametrize(
    "limit",
    [
        {"rate": {"writes": {"limit": "2/hour", "per": "{ws}"}}},
        {"rate": {"writes": {"limit": "2/hour", "burst": 2, "per": "{ws}"}}},
        {"budget": {"writes": {"limit": "2/hour", "per": "{ws}"}}},
    ],
    ids=["ring", "gcra", "budget"],
)
def test_limit_per_captured_segment_counts_each_value_apart(
    leash: Leash, limit: dict[str, Any]
) -> None:
    """Each workspace has its own, for its window; a call without the segment does not count."""
    leash.load(one={"grants": [grant("read", "write", keys=["ws:{{{ws}}}:*", "free:*"])], **limit})
    agent = leash.agent("one")

    assert passed(agent, 5, "SET", "ws:{a}:1", "x") == 2
    assert passed(agent, 5, "SET", "ws:{b}:1", "x") == 2
    assert passed(agent, 5, "SET", "free:1", "x") == 5
    kept = leash.counters("one")
    assert len(kept) == 2
    assert all(0 < leash.admin.pttl(name) <= 3_600_000 for name in kept)


def test_call_over_several_segments_counts_once_for_each_or_for_none(leash: Leash) -> None:
    """One spent workspace refuses the whole call, and the other one keeps its count."""
    limit = {"budget": {"writes": {"limit": "2/month", "per": "{ws}"}}}
    leash.load(one={"grants": [grant("write", keys="ws:{ws}:*")], **limit})
    agent = leash.agent("one")

    assert passed(agent, 1, "MSET", "ws:a:1", "x", "ws:a:2", "x", "ws:b:1", "x") == 1
    assert passed(agent, 5, "SET", "ws:a:1", "x") == 1
    assert passed(agent, 1, "MSET", "ws:b:1", "x", "ws:a:1", "x") == 0
    assert passed(agent, 5, "SET", "ws:b:1", "x") == 1


@pytest.mark.parametrize(
    "limit",
    [{"requests": "2/second"}, {"requests": {"limit": "2/second", "burst": 2}}],
    ids=["ring", "gcra"],
)
def test_retry_after_is_positive_and_not_early(leash: Leash, limit: dict[str, Any]) -> None:
    """Waiting for exactly that time, by the server's clock, is enough."""
    leash.load(one={**ALL, "rate": limit})
    agent = leash.agent("one")

    for _ in range(3):
        with pytest.raises(keyleash.RateLimitedError) as refusal:
            # Asked again, a moment later, there might be none.
            deque(iter(lambda: agent.get("doc:1"), "never"), maxlen=0)
        assert refusal.value.details["limit"] == "rate.requests"
        assert 1 <= refusal.value.retry_after_ms <= 1000
        time.sleep(refusal.value.retry_after_ms / 1000)
        assert agent.get("doc:1") is None


def test_spent_budget_tells_when_its_window_ends_in_its_time_zone(leash: Leash) -> None:
    """Midnight in Berlin, not in Greenwich."""
    leash.load(one={**ALL, "budget": {"writes": {"limit": "1/day", "timezone": "Europe/Berlin"}}})
    agent = leash.agent("one")
    agent.set("doc:1", "x")

    with pytest.raises(keyleash.BudgetExhaustedError) as refusal:
        agent.set("doc:1", "x")
    berlin = ZoneInfo("Europe/Berlin")
    today = datetime.fromtimestamp(int(leash.admin.time()[0]), berlin).date()
    midnight = datetime(today.year, today.month, today.day, tzinfo=berlin) + timedelta(days=1)
    assert refusal.value.details["limit"] == "budget.writes"
    assert refusal.value.resets_at_ms == midnight.timestamp() * 1000


def test_command_that_fails_was_counted(leash: Leash) -> None:
    """Limits are about attempts that reached the data; a script error does not roll back."""
    leash.load(one={**ALL, "budget": {"requests": "2/month"}})
    agent = leash.agent("one")

    for _ in range(2):
        with pytest.raises(Exception, match="wrong number"):
            agent.execute_command("GET")
    with pytest.raises(keyleash.BudgetExhaustedError):
        agent.get("doc:1")
