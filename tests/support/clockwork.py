"""Small policies of limits, calls that they count, and moves of the clock: for property tests."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from keyleash.evaluate.trace import Decision
from keyleash.limits import SECOND_US, Counter
from keyleash.limits.calendar import window_end_us
from keyleash.limits.rate import RATE_PERIODS_US
from keyleash.policy import Identity


def instant_us(text: str) -> int:
    """An ISO instant in UTC as microseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND_US


MILLISECOND_US = 1000
MINUTE_US = 60 * SECOND_US
DAY_US = 24 * 60 * MINUTE_US

STARTS = st.sampled_from(
    [
        instant_us("2026-03-29T00:59:59"),  # Berlin springs forward at 01:00 UTC
        instant_us("2026-03-28T22:30:00"),  # the day before, shortly before its end
        instant_us("2026-10-25T00:30:00"),  # Berlin falls back at 01:00 UTC
        instant_us("2026-10-24T21:59:00"),
        instant_us("2028-02-28T23:59:58"),
        instant_us("2026-04-30T21:59:59"),  # the month ends in Berlin at 22:00 UTC
        instant_us("2026-12-31T23:00:00"),
        instant_us("2027-06-15T12:34:56") + 789_000,
    ]
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"])
SUBJECTS = st.sampled_from(["identity", "token", "{x}"])
CALLS = [counter for counter in Counter if not counter.is_bytes]
COUNTS = st.integers(1, 5)

GRANTS = [
    {"allow": ["read", "write", "delete"], "keys": ["k:{x}:*", "j:{x}"]},
    {"allow": ["read"], "keys": ["plain", "r:{x}:{y}", "j:{y}:*"]},
]
COMMANDS = st.sampled_from(
    [
        ("PING",),
        ("GET", "k:a:1"),
        ("SET", "k:a:1", "v"),
        ("SET", "k:a:1", "v", "GET"),
        ("SET", "k:b:2", "v"),
        ("INCR", "j:a"),
        ("DEL", "k:a:1", "k:b:1", "k:a:2"),
        ("MGET", "k:a:1", "j:b", "plain", "r:c:d"),
        ("MSET", "k:b:1", "v", "k:a:1", "v", "j:b", "v"),
        ("GET", "plain"),
        ("GET", "j:a:x"),
        ("SET", "plain", "v"),
        ("GET", "nowhere"),
        ("COPY", "plain", "k:c:1"),
        ("COPY", "k:c:1", "plain"),
    ]
)
Command = tuple[str, ...]
Move = tuple[str, int]


@st.composite
def rates(draw: st.DrawFn, subject: st.SearchStrategy[str]) -> dict[str, Any]:
    period = draw(st.sampled_from(["second", "minute", "hour", "day"]))
    rate: dict[str, Any] = {"limit": f"{draw(COUNTS)}/{period}", "per": draw(subject)}
    if draw(st.booleans()):
        rate["burst"] = draw(st.integers(1, 5))
    return rate


@st.composite
def budgets(draw: st.DrawFn, subject: st.SearchStrategy[str]) -> dict[str, Any]:
    period = draw(st.sampled_from(["minute", "hour", "day", "month"]))
    return {"limit": f"{draw(COUNTS)}/{period}", "timezone": draw(ZONES), "per": draw(subject)}


@st.composite
def limits(draw: st.DrawFn, subject: st.SearchStrategy[str]) -> dict[str, Any]:
    """One to three limits."""
    found: dict[str, Any] = {"rate": {}, "budget": {}}
    for _ in range(draw(st.integers(1, 3))):
        kind, made = draw(
            rates(subject).map(lambda rate: ("rate", rate))
            | budgets(subject).map(lambda budget: ("budget", budget))
        )
        found[kind][draw(st.sampled_from(CALLS))] = made
    return found


def one_limit(subject: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return rates(subject).map(lambda rate: {"rate": {"requests": rate}}) | budgets(subject).map(
        lambda budget: {"budget": {"requests": budget}}
    )


@st.composite
def breakers(draw: st.DrawFn) -> dict[str, Any]:
    """When an identity suspends itself, and for how long."""
    period = draw(st.sampled_from(["second", "minute", "hour"]))
    suspend = draw(st.sampled_from(["1s", "1m", "2h"]))
    return {"on_denials": {"threshold": f"{draw(COUNTS)}/{period}", "suspend": suspend}}


FORWARD = st.one_of(
    st.just(("by", 0)),
    st.tuples(st.just("by"), st.integers(1, 1500)),
    st.tuples(st.just("by"), st.integers(1, 2 * MINUTE_US)),
    st.tuples(st.just("by"), st.integers(1, 40 * DAY_US)),
    st.tuples(st.just("to the retry"), st.sampled_from([-MILLISECOND_US, 0, 0, MILLISECOND_US])),
    st.tuples(
        st.just("to a window's end"), st.sampled_from([-MILLISECOND_US, 0, 0, MILLISECOND_US])
    ),
    st.tuples(st.just("by a part of the period"), st.integers(1, 5)),
)
BACKWARD = st.tuples(st.just("by"), st.integers(-2 * DAY_US, -1))


def script_of(moves: st.SearchStrategy[Move]) -> st.SearchStrategy[list[tuple[Move, Command, str]]]:
    tokens = st.sampled_from(["kl_one", "kl_one", "kl_two"])
    return st.lists(st.tuples(moves, COMMANDS, tokens), min_size=5, max_size=40)


def document(limits_of: dict[str, Any]) -> str:
    identity = {"kind": "machine", "grants": GRANTS, **limits_of}
    return json.dumps({"version": 1, "identities": {"a": identity}})


def moved(now_us: int, move: Move, identity: Identity, last: Decision | None) -> int:
    """The clock after a move that may depend on the policy and on the last answer.

    Guards read whole milliseconds, so the clock stands at one.
    """
    return _moved(now_us, move, identity, last) // MILLISECOND_US * MILLISECOND_US


def _moved(now_us: int, move: Move, identity: Identity, last: Decision | None) -> int:
    kind, number = move
    details = last.details if last is not None else {}
    match kind:
        case "to the retry" if "retry_after_ms" in details:
            return now_us + int(details["retry_after_ms"]) * 1000 + number
        case "to the retry" if "resets_at_ms" in details:
            return int(details["resets_at_ms"]) * 1000 + number
        case "to the retry" if "until_ms" in details:
            return int(details["until_ms"]) * 1000 + number
        case "to a window's end" if identity.budgets:
            budget = identity.budgets[0]
            return window_end_us(budget.period, budget.timezone, now_us) + number
        case "by a part of the period" if identity.rates:
            rate = identity.rates[0]
            return now_us + rate.period_us * number // rate.limit // 2
        case "by a part of the period" if identity.on_denials is not None:
            breaker = identity.on_denials
            return now_us + RATE_PERIODS_US[breaker.period] * number // breaker.threshold
        case _:
            return now_us + max(number, 0) if kind != "by" else now_us + number
