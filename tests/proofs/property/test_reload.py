"""Another policy becomes active between calls: no limit forgets what it has counted."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import keyleash
from keyleash.errors import ReplyCode
from keyleash.evaluate.evaluate import decide
from keyleash.evaluate.state import ModelState
from keyleash.evaluate.trace import Decision
from keyleash.limits import Counter, Rate, SubjectKind
from keyleash.limits.calendar import window_end_us
from keyleash.operator.suspension import freeze, thaw
from keyleash.policy import Identity, parse_policy
from proofs.oracle.data import model_state
from support.clockwork import (
    FORWARD,
    GRANTS,
    STARTS,
    SUBJECTS,
    Command,
    Move,
    budgets,
    document,
    limits,
    moved,
    rates,
    script_of,
)
from support.leash import Leash, grant
from support.lua_guard import TABLE, LuaServer
from support.servers import RealServer
from support.thorough import thorough

HERE = {"kind": "machine", "grants": GRANTS}
CALLS = [counter for counter in Counter if not counter.is_bytes]
PLACES = st.tuples(st.sampled_from(["rate", "rate", "budget"]), st.sampled_from(CALLS), SUBJECTS)
ELSEWHERE = json.dumps({"version": 1, "identities": {"b": HERE}})
"""A policy that identity `a` is not in."""


@st.composite
def variants(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Policies that have much the same limits, with other numbers and sometimes other subjects."""
    places = draw(st.lists(PLACES, min_size=1, max_size=2, unique_by=lambda place: place[:2]))
    found = []
    for _ in range(draw(st.integers(2, 3))):
        policy = draw(st.just({}) | limits(SUBJECTS))
        for kind, counter, subject in places:
            make = rates if kind == "rate" else budgets
            made = draw(make(st.just(subject) | SUBJECTS))
            policy = {**policy, kind: {**policy.get(kind, {}), counter: made}}
        found.append(policy)
    return found


def reload(state: ModelState, before: Identity, identity: Identity, now_us: int) -> None:
    """Migrate what was counted to a policy in which *before* has become *identity*."""
    for limit in before.limits:
        if limit.subject.kind is SubjectKind.IDENTITY:
            state.count(limit, b"", now_us)
    of_identity = (x for x in identity.limits if x.subject.kind is SubjectKind.IDENTITY)
    shared = {limit.name: limit for limit in of_identity}
    for name, count in [(name, item) for (name, of), item in state.counts.items() if not of]:
        del state.counts[name, b""]
        if name in shared:
            state.counts[name, b""] = count.migrated(shared[name], now_us)


@example(
    1_774_745_999_000_000,
    [
        {"budget": {Counter.REQUESTS: {"limit": "1/hour", "timezone": zone, "per": "identity"}}}
        for zone in ("UTC", "Asia/Kathmandu")
    ],
    [(("by", 0), ("PING",), "kl_one")] * 2 + [(("load", 1), ("PING",), "kl_one")],
)
@thorough(45)
@given(STARTS, variants(), script_of(FORWARD | st.tuples(st.just("load"), st.integers(0, 3))))
def test_guard_and_model_agree_across_reloads(
    start_us: int, policies: list[dict[str, Any]], script: list[tuple[Move, Command, str]]
) -> None:
    """Other numbers, periods, zones, bursts, subjects and neighbours; `a` gone and back."""
    server = LuaServer(start_us)
    identity = server.activate(document(policies[0])).identities[0]
    state, last = model_state(), None
    for move, command, token in script:
        if move[0] == "load":
            if move[1] == 3:
                server.activate(ELSEWHERE)
            new = server.activate(document(policies[move[1] % len(policies)])).identities[0]
            if new != identity or move[1] == 3:
                reload(state, identity, new, server.now_us)
            identity = new
        else:
            server.now_us = moved(server.now_us, move, identity, last)
        guard = server.guard("a", token)
        argv = [word.encode() for word in command]
        declared = argv[TABLE.key_slices[command[0]]]
        last = guard.call(*command)
        assert last == decide(identity, TABLE, argv, declared, state, server.now_us, guard.token_id)


@thorough(30)
@given(STARTS, variants())
def test_guard_of_an_earlier_policy_is_stale_after_any_reload(
    start_us: int, policies: list[dict[str, Any]]
) -> None:
    """Whatever the new state looks like, shorter or longer: nothing else would be healed."""
    server = LuaServer(start_us)
    server.activate(document(policies[0]))
    for policy in policies[1:]:
        earlier = server.guard("a")
        server.activate(document(policy))
        if server.guard("a").compiled.digest != earlier.compiled.digest:
            assert earlier.call("SET", "k:a:1", "v").code is ReplyCode.POLICY_STALE


def passes(server: LuaServer, tries: int) -> int:
    """Return the number of calls, of *tries* at one instant, that are allowed."""
    guard = server.guard("a")
    return sum(guard.call("SET", "k:a:1", "v").allowed for _ in range(tries))


def spaced_passes(server: LuaServer, moves: list[Move], identity: Identity) -> list[int]:
    """Return the times of allowed calls, with three tries after each move."""
    guard, last, found = server.guard("a"), Decision(), []
    for move in moves:
        server.now_us = max(server.now_us, moved(server.now_us, move, identity, last))
        for _ in range(3):
            last = guard.call("SET", "k:a:1", "v")
            if last.allowed:
                found.append(server.now_us)
    return found


def rate_in(policy: dict[str, Any]) -> Rate:
    return parse_policy(document(policy), file="p", commands=TABLE).identities[0].rates[0]


IDENTITY = st.just("identity")
MOVES = st.lists(FORWARD, min_size=3, max_size=15)


@thorough(30)
@given(STARTS, rates(IDENTITY), rates(IDENTITY), MOVES, MOVES)
def test_plain_rate_counts_the_calls_from_before_it(
    start_us: int,
    before: dict[str, Any],
    after: dict[str, Any],
    early: list[Move],
    late: list[Move],
) -> None:
    """
    A rate that becomes plain, or another plain one, lets no window have more than its limit.

    Unless its period grows: a plain one cannot know more calls than it remembered, and one
    with a burst none from before its own period; then those that are known count.
    """
    after = {"limit": after["limit"]}
    old, new = rate_in({"rate": {"writes": before}}), rate_in({"rate": {"writes": after}})
    server = LuaServer(start_us)
    identity = server.activate(document({"rate": {"writes": before}})).identities[0]
    times_us = spaced_passes(server, early, identity)
    if old.burst is None:
        times_us = times_us[-old.limit :]
    else:
        times_us = [at for at in times_us if at > server.now_us - old.period_us]

    identity = server.activate(document({"rate": {"writes": after}})).identities[0]
    later_us = spaced_passes(server, late, identity)

    for at in later_us:
        window = [item for item in times_us + later_us if at - new.period_us < item <= at]
        assert len(window) <= new.limit


@thorough(30)
@given(STARTS, rates(SUBJECTS), rates(SUBJECTS), st.integers(1, 8), st.integers(1, 3))
def test_rate_with_burst_keeps_the_calls_that_are_owed(
    start_us: int, before: dict[str, Any], after: dict[str, Any], burst: int, calls: int
) -> None:
    """Calls just made are calls less that may be made at once; a plain rate counts as used up."""
    after = {**after, "burst": burst, "per": before["per"]}
    server = LuaServer(start_us)
    server.activate(document({"rate": {"writes": before}}))
    taken = passes(server, calls)

    server.activate(document({"rate": {"writes": after}}))

    left = max(burst - taken, 0) if "burst" in before else 0
    assert passes(server, burst + 1) == left


@thorough(30)
@given(STARTS, rates(SUBJECTS), rates(SUBJECTS), st.booleans())
def test_rate_of_another_kind_denies_until_its_first_call_is_free(
    start_us: int, before: dict[str, Any], after: dict[str, Any], gains_burst: bool
) -> None:
    """A rate that gains or loses its burst counts as used up at the reload."""
    plain = {"limit": before["limit"], "per": before["per"]}
    burst = {"limit": after["limit"], "per": before["per"], "burst": after.get("burst", 3)}
    olds, news = (plain, burst) if gains_burst else (burst, plain)
    server = LuaServer(start_us)
    server.activate(document({"rate": {"writes": olds}}))
    assert passes(server, 1) == 1

    server.activate(document({"rate": {"writes": news}}))

    rate = rate_in({"rate": {"writes": news}})
    assert passes(server, 1) == 0
    # The guard's clock has whole milliseconds.
    wait_us = math.ceil(rate.interval_us / 1000) * 1000 if gains_burst else rate.period_us
    server.now_us += wait_us - 1
    assert passes(server, 1) == 0
    server.now_us += 1
    assert passes(server, rate.limit + 1) == (1 if gains_burst else rate.limit)


@thorough(30)
@given(STARTS, budgets(SUBJECTS), budgets(SUBJECTS), st.integers(0, 6))
def test_budget_keeps_what_is_used_until_its_new_window_ends(
    start_us: int, before: dict[str, Any], after: dict[str, Any], calls: int
) -> None:
    """
    Another number, another period or another zone: what was used stays used.

    A counter of a token or a segment follows another period, but not another zone.
    """
    if before["per"] != "identity":
        after = {**after, "timezone": before["timezone"]}
    after = {**after, "per": before["per"]}
    server = LuaServer(start_us)
    server.activate(document({"budget": {"writes": before}}))
    used = passes(server, calls)

    identity = server.activate(document({"budget": {"writes": after}})).identities[0]
    budget = identity.budgets[0]

    assert passes(server, budget.limit + 1) == max(budget.limit - used, 0)
    ends_us = window_end_us(budget.period, budget.timezone, start_us)
    refusal = server.guard("a").call("SET", "k:a:1", "v")
    assert refusal.details["resets_at_ms"] == str(ends_us // 1000)
    server.now_us = ends_us
    assert passes(server, budget.limit + 1) == budget.limit


@thorough(60)
@given(STARTS, rates(IDENTITY), rates(IDENTITY), MOVES, MOVES)
def test_calls_while_states_are_staged_count_as_those_before(
    start_us: int,
    before: dict[str, Any],
    after: dict[str, Any],
    early: list[Move],
    late: list[Move],
) -> None:
    """Whatever a state went through since it was read, a ring that went round among it."""
    old = {"rate": {"requests": before}, "budget": {"reads": "9/day"}}
    new = document({"rate": {"requests": after}, "budget": {"writes": "9/day", "reads": "9/day"}})
    server = LuaServer(start_us)
    identity = server.activate(document(old)).identities[0]
    spaced_passes(server, early, identity)
    twin, read = server.copy(), server.state("a")

    def meanwhile() -> None:
        spaced_passes(server, late, identity)

    spaced_passes(twin, late, identity)
    called = twin.state("a") != read
    server.activate(new, meanwhile)
    twin.activate(new)

    assert server.now_us == twin.now_us
    # Without a call, a GCRA's debt is converted as of the time of staging; and stamps differ if
    # a year ended in between.
    if called:
        assert server.state("a")[8:] == twin.state("a")[8:]


# The same on real servers, where activation and tokens are the real ones.

ALL = {"grants": [grant("read", "write", keys="doc:*")]}


@pytest.fixture
def leash(server: RealServer) -> Leash:
    return Leash(server)


def count_passes(agent: keyleash.Redis, tries: int) -> int:
    done = 0
    for _ in range(tries):
        try:
            agent.set("doc:1", "x")
        except (keyleash.RateLimitedError, keyleash.BudgetExhaustedError):
            continue
        done += 1
    return done


@pytest.mark.parametrize("per", ["identity", "token"])
@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        ({"limit": "5/day"}, {"limit": "8/day"}, 3),
        ({"limit": "5/day"}, {"limit": "2/day"}, 0),
        ({"limit": "5/day"}, {"limit": "5/day", "burst": 5}, 0),
        ({"limit": "5/day", "burst": 5}, {"limit": "5/day"}, 0),
        ({"limit": "5/day", "burst": 5}, {"limit": "50/day", "burst": 5}, 0),
        ({"limit": "5/day", "burst": 5}, {"limit": "5/day", "burst": 7}, 2),
    ],
    ids=["larger", "smaller", "burst-added", "burst-removed", "faster", "more-burst"],
)
def test_spent_rate_is_still_spent_after_a_reload(
    leash: Leash, per: str, before: dict[str, Any], after: dict[str, Any], left: int
) -> None:
    """Only the calls that the reload adds are allowed, for every kind of subject."""
    leash.load(one={**ALL, "rate": {"writes": {**before, "per": per}}})
    agent = leash.agent("one")
    assert count_passes(agent, 6) == 5

    leash.load(one={**ALL, "rate": {"writes": {**after, "per": per}}})

    assert count_passes(agent, 10) == left


def test_counters_survive_reordering_neighbours_and_absence(leash: Leash) -> None:
    """A limit is identified by its name, also after a policy without its identity."""
    both = {"rate": {"writes": "6/day"}, "budget": {"writes": "900/month", "requests": "9/month"}}
    leash.load(one={**ALL, "rate": {"writes": "6/day"}})
    agent = leash.agent("one")
    assert count_passes(agent, 2) == 2

    leash.load(one={**ALL, **both})
    assert count_passes(agent, 2) == 2
    leash.load(two=ALL)
    with pytest.raises(keyleash.NotActiveError):
        agent.set("doc:1", "x")
    leash.load(two=ALL, one={**ALL, **both, "rate": {"reads": "1/day", "writes": "6/day"}})

    assert count_passes(agent, 5) == 2


@pytest.mark.parametrize("gone", [False, True], ids=["changed", "gone-and-back"])
def test_suspended_identity_stays_suspended_across_a_reload(leash: Leash, gone: bool) -> None:
    """No change of the policy ends a suspension."""
    leash.load(one=ALL)
    agent = leash.agent("one")
    freeze(leash.store, "one", reason="x")

    if gone:
        leash.load(two=ALL)
    leash.load(one={**ALL, "rate": {"writes": "3/day"}})

    with pytest.raises(keyleash.SuspendedError):
        agent.set("doc:1", "x")
    thaw(leash.store, "one")
    assert count_passes(agent, 5) == 3
