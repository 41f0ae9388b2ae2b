"""Limits of compiled guards against the model, under a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyleash.doubles import DOUBLE
from keyleash.errors import ReplyCode
from keyleash.evaluate.evaluate import decide, subjects
from keyleash.evaluate.state import stored_state
from keyleash.evaluate.trace import Decision, LimitStep
from keyleash.limits import SECOND_US
from keyleash.limits.calendar import window_end_us
from keyleash.policy import Identity, parse_policy
from keyleash.store.states import counter_key
from keyleash.store.wire import BatchMode
from proofs.oracle.data import model_state
from support.clockwork import (
    BACKWARD,
    COMMANDS,
    FORWARD,
    MILLISECOND_US,
    STARTS,
    SUBJECTS,
    Command,
    Move,
    breakers,
    budgets,
    document,
    instant_us,
    limits,
    moved,
    one_limit,
    rates,
    script_of,
)
from support.lua_guard import KEYS, TABLE, LuaGuard, LuaServer
from support.thorough import thorough

pytestmark = pytest.mark.slow

OUT_OF_LIMITS = (ReplyCode.RATE_LIMITED, ReplyCode.BUDGET_EXHAUSTED)
SEQUENCE = 2 * DOUBLE
"""Where it stands in a state."""


def counters(server: LuaServer) -> dict[bytes, bytes]:
    """All that is packed, but for the number of events in a state: a batch has one for all."""
    state = KEYS.state("a").encode()
    packed = {key: value for key, value in server.data.items() if isinstance(value, bytes)}
    return {**packed, state: packed[state][:SEQUENCE] + packed[state][SEQUENCE + DOUBLE :]}


def as_stored(guard: LuaGuard, argv: list[bytes], declared: list[bytes]) -> Decision:
    """Return the decision of the evaluator from the records on the server alone."""
    server, identity = guard.server, guard.identity
    state = stored_state(identity, server.state("a"), guard.compiled.layout)
    state.data = model_state().data
    for limit in identity.limits:
        for subject in subjects(identity, limit, declared, guard.token_id):
            key = counter_key(KEYS, identity.name, limit, subject).encode()
            record, expires_ms = server.data.get(key), server.expires_ms.get(key, 0)
            if isinstance(record, bytes) and expires_ms >= server.now_us // 1000 and subject:
                count = limit.read_record(record, server.now_us)
                state.counts[limit.name, subject] = count
    return decide(identity, TABLE, argv, declared, state, server.now_us, guard.token_id)


def assert_leads_to(decision: Decision) -> None:
    """The last step says what the decision is, and none before it refuses."""
    *before, last = decision.trace
    assert [step.code for step in before] == [None] * len(before)
    assert last.code == decision.code


def assert_tells_what_is_left(decision: Decision) -> None:
    """Something is left of each limit that lets the call through, and nothing of another."""
    for step in decision.trace:
        if isinstance(step, LimitStep):
            assert (step.left > 0) == (step.code is None)


def play(
    start_us: int, policy: str, script: list[tuple[Move, Command, str]], *, is_forward: bool
) -> None:
    """
    Check that each call gets the evaluator's decision, and that a denied one changes nothing.

    *is_forward*: whether the clock never goes back, so that the calls left can be predicted.
    """
    server = LuaServer(start_us)
    server.activate(policy)
    state, last, mutations = model_state(), None, 0
    for move, command, token in script:
        guard = server.guard("a", token)
        server.now_us = moved(server.now_us, move, guard.identity, last)
        argv = [word.encode() for word in command]
        declared = argv[TABLE.key_slices[command[0]]]
        expected = decide(
            guard.identity, TABLE, argv, declared, state, server.now_us, guard.token_id
        )
        before = counters(server)
        if is_forward:
            assert as_stored(guard, argv, declared) == expected
            assert_tells_what_is_left(expected)
        last = guard.call(*command)
        assert last == expected
        assert_leads_to(expected)
        spec = TABLE.get(command[0])
        assert spec is not None
        if last.allowed:
            mutations += spec.mutates
        elif guard.identity.on_denials is None and last.code in OUT_OF_LIMITS:
            # What no longer counts may have expired meanwhile.
            assert counters(server).items() <= before.items()
    assert len(server.events("a")) == mutations


@thorough(45)
@given(STARTS, limits(st.just("identity")), script_of(FORWARD | FORWARD | BACKWARD))
def test_guard_and_model_agree_whatever_the_clock_does(
    start_us: int, limits_of: dict[str, Any], script: list[tuple[Move, Command, str]]
) -> None:
    """Rings, GCRA and budgets of an identity, across DST changes and month ends, and backwards."""
    play(start_us, document(limits_of), script, is_forward=False)


@thorough(45)
@given(STARTS, limits(SUBJECTS), script_of(FORWARD))
def test_guard_and_model_agree_per_token_and_per_capture(
    start_us: int, limits_of: dict[str, Any], script: list[tuple[Move, Command, str]]
) -> None:
    """Each token and each captured segment has a counter that lives as long as it counts."""
    play(start_us, document(limits_of), script, is_forward=True)


@thorough(45)
@given(
    STARTS,
    one_limit(st.just("identity")),
    breakers(),
    script_of(FORWARD | FORWARD | FORWARD | BACKWARD),
)
def test_guard_and_model_agree_on_who_suspends_itself_and_until_when(
    start_us: int,
    limit: dict[str, Any],
    breaker: dict[str, Any],
    script: list[tuple[Move, Command, str]],
) -> None:
    """Denials by grants and by limits count; those of a suspended identity do not."""
    play(start_us, document(limit | breaker), script, is_forward=False)


def test_refusals_a_whole_period_apart_do_not_count_together() -> None:
    """The first no longer counts at the very moment its period ends."""
    server = LuaServer(instant_us("2027-06-15T12:34:56"))
    server.activate(document({"on_denials": {"threshold": "2/minute", "suspend": "1h"}}))
    guard = server.guard("a", "kl_one")
    codes = []
    for seconds in (0, 60, 59, 1):
        server.now_us += seconds * SECOND_US
        codes.append(guard.call("GET", "nowhere").code)
    assert codes == [ReplyCode.KEY_NOT_GRANTED] * 3 + [ReplyCode.SUSPENDED]


@thorough(30)
@given(STARTS, limits(SUBJECTS), script_of(FORWARD | BACKWARD))
def test_clock_that_goes_back_never_breaks_a_guard(
    start_us: int, limits_of: dict[str, Any], script: list[tuple[Move, Command, str]]
) -> None:
    """Counters with a life of their own may die early then; the guard still answers."""
    server = LuaServer(start_us)
    server.activate(document(limits_of))
    last = None
    for move, command, token in script:
        guard = server.guard("a", token)
        server.now_us = moved(server.now_us, move, guard.identity, last)
        last = guard.call(*command)
        assert int(last.details.get("retry_after_ms", 1)) >= 1


@thorough(45)
@given(STARTS, one_limit(SUBJECTS), st.lists(FORWARD, min_size=3, max_size=30))
def test_retry_after_is_never_early_and_never_late(
    start_us: int, limits_of: dict[str, Any], moves: list[Move]
) -> None:
    """A call after exactly the reported time is allowed; a millisecond earlier it is denied."""
    server = LuaServer(start_us)
    server.activate(document(limits_of))
    guard, last = server.guard("a"), None
    refusals = 0
    for move in moves:
        server.now_us = moved(server.now_us, move, guard.identity, last)
        last = guard.call("SET", "k:a:1", "v")
        if last.allowed:
            continue
        refusals += 1
        if last.code is ReplyCode.RATE_LIMITED:
            retry_after_ms = int(last.details["retry_after_ms"])
            assert retry_after_ms >= 1
            free_us = server.now_us + retry_after_ms * 1000
        else:
            free_us = int(last.details["resets_at_ms"]) * 1000
            assert free_us > server.now_us
        assert later(guard, free_us).allowed
        assert not later(guard, max(free_us - 1000, server.now_us)).allowed
    assume(refusals)


@thorough(30)
@given(
    st.integers(0, 10).map(lambda ms: instant_us("2026-06-15T12:34:56") + ms * MILLISECOND_US),
    st.sampled_from(
        [
            {"rate": {"writes": {"limit": "1/second", "per": "token"}}},
            {"rate": {"writes": {"limit": "7/second", "burst": 1, "per": "{x}"}}},
            {"rate": {"writes": {"limit": "999/second", "burst": 1, "per": "token"}}},
            {"budget": {"writes": {"limit": "1/minute", "per": "{x}"}}},
        ]
    ),
)
def test_counter_of_a_subject_lives_as_long_as_it_matters(
    start_us: int, limits_of: dict[str, Any]
) -> None:
    """Redis expires it by whole milliseconds; it must not go one of them early."""
    server = LuaServer(start_us)
    identity = server.activate(document(limits_of)).identities[0]
    guard = server.guard("a")
    assert guard.call("SET", "k:a:1", "v").allowed

    free_us = (
        window_end_us(identity.budgets[0].period, "UTC", start_us)
        if identity.budgets
        else start_us - (-identity.rates[0].period_us // identity.rates[0].limit)
    )
    free_us = -(-free_us // MILLISECOND_US) * MILLISECOND_US
    assert not later(guard, free_us - MILLISECOND_US).allowed
    assert later(guard, free_us).allowed


@thorough(45)
@given(
    STARTS,
    limits(SUBJECTS),
    st.lists(
        st.tuples(FORWARD | FORWARD | BACKWARD, st.lists(COMMANDS, min_size=1, max_size=9)),
        min_size=2,
        max_size=12,
    ),
)
def test_batch_leaves_what_its_commands_alone_would_have_left(
    start_us: int, limits_of: dict[str, Any], script: list[tuple[Move, list[Command]]]
) -> None:
    """Every counter is the same to the byte, rings that wrap around included."""
    alone = LuaServer(start_us)
    alone.activate(document(limits_of))
    last = None
    for move, commands in script:
        guard = alone.guard("a")
        alone.now_us = moved(alone.now_us, move, guard.identity, last)
        together, whole = alone.copy(), alone.copy()
        found = together.guard("a").batch(BatchMode.EACH, *commands)
        decisions = [guard.call(*command) for command in commands]
        last = decisions[-1]
        assert found == decisions
        assert counters(together) == counters(alone)

        refusals = [number for number, item in enumerate(decisions, 1) if not item.allowed]
        before = counters(whole)
        answers = whole.guard("a").batch(BatchMode.ALL, *commands)
        if not refusals:
            assert answers == decisions
            assert counters(whole) == counters(alone)
        else:
            (answer,) = answers
            expected = decisions[refusals[0] - 1]
            assert answer == Decision(expected.code, {**expected.details, "item": str(refusals[0])})
            assert counters(whole).items() <= before.items()


def later(guard: LuaGuard, at_us: int) -> Decision:
    """Return the decision of the same call at another time, without calls in between."""
    server = guard.server.copy()
    server.now_us = at_us
    return server.guard("a").call("SET", "k:a:1", "v")


def passes(start_us: int, limits_of: dict[str, Any], moves: list[Move]) -> list[int]:
    """When calls got through, three tried after each move, under a clock that goes forward."""
    server = LuaServer(start_us)
    server.activate(document(limits_of))
    guard, last = server.guard("a"), None
    found = []
    for move in moves:
        now_us = moved(server.now_us, move, guard.identity, last)
        server.now_us = max(now_us, server.now_us)
        for _ in range(3):
            last = guard.call("SET", "k:a:1", "v")
            if last.allowed:
                found.append(server.now_us)
    return found


def most_in_a_window(times_us: list[int], period_us: int) -> int:
    return max(
        (sum(item <= other < item + period_us for other in times_us) for item in times_us),
        default=0,
    )


@thorough(30)
@given(STARTS, rates(SUBJECTS), st.lists(FORWARD, min_size=5, max_size=30))
def test_plain_rate_never_exceeds_its_limit_in_any_window(
    start_us: int, rate: dict[str, Any], moves: list[Move]
) -> None:
    """600/minute means 600 in any 60 seconds, wherever they begin."""
    rate = {name: value for name, value in rate.items() if name != "burst"}
    identity = identity_of({"rate": {"writes": rate}})

    times_us = passes(start_us, {"rate": {"writes": rate}}, moves)
    assert most_in_a_window(times_us, identity.rates[0].period_us) <= identity.rates[0].limit


@thorough(30)
@given(STARTS, rates(SUBJECTS), st.integers(1, 12), st.lists(FORWARD, min_size=5, max_size=30))
def test_rate_with_burst_keeps_to_limit_and_burst(
    start_us: int, rate: dict[str, Any], burst: int, moves: list[Move]
) -> None:
    """At most `burst` back to back, and limit + burst − 1 in any window."""
    limits_of = {"rate": {"writes": {**rate, "burst": burst}}}
    found = identity_of(limits_of).rates[0]

    times_us = passes(start_us, limits_of, moves)
    assert most_in_a_window(times_us, found.period_us) <= found.limit + burst - 1
    assert most_in_a_window(times_us, 1) <= burst


@thorough(30)
@given(STARTS, budgets(SUBJECTS), st.lists(FORWARD, min_size=5, max_size=30))
def test_budget_never_exceeds_its_limit_in_a_calendar_window(
    start_us: int, budget: dict[str, Any], moves: list[Move]
) -> None:
    """Windows as zoneinfo has them."""
    limits_of = {"budget": {"writes": budget}}
    found = identity_of(limits_of).budgets[0]

    by_window: dict[int, int] = {}
    for at_us in passes(start_us, limits_of, moves):
        ends_us = window_end_us(found.period, found.timezone, at_us)
        by_window[ends_us] = by_window.get(ends_us, 0) + 1
    assert max(by_window.values(), default=0) <= found.limit


def identity_of(limits_of: dict[str, Any]) -> Identity:
    policy = parse_policy(document(limits_of), file="policy.json", commands=TABLE)
    return policy.identities[0]
