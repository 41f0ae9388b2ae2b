"""Activating a policy: all or nothing, and counters survive it."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from operator import ge
from typing import Any

import pytest
import redis

import keyleash
from keyleash.errors import PolicyError
from keyleash.operator.load import activate
from keyleash.operator.suspension import freeze, thaw
from keyleash.store.guards import record_sources
from keyleash.store.records import guard_record
from support.errors import raises_code
from support.leash import NAMES, Leash, grant, policy
from support.loading import load_policy
from support.replication import wait_until

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="doc:*")]}
OTHER: dict[str, Any] = {"grants": [grant("read", keys="doc:*")]}


def keyspace_dump(leash: Leash) -> dict[bytes, bytes]:
    return {name: leash.admin.dump(name) for name in leash.admin.scan_iter()}


def test_load_of_the_same_policy_changes_nothing_and_says_so(leash: Leash) -> None:
    """Not even if only the layout of its text changed."""
    first = leash.load(one=ALL, two=OTHER)
    leash.agent("one").set("doc:1", "x")
    before = keyspace_dump(leash)
    again = leash.load(policy(one=ALL, two=OTHER).replace(",", ",\n"))

    assert (first.changed, again.changed) == (True, False)
    assert (again.generation, again.digest) == (first.generation, first.digest)
    assert keyspace_dump(leash) == before


def test_policy_with_a_problem_touches_nothing(leash: Leash) -> None:
    """The server is not even asked."""
    leash.load(one=ALL)
    before = keyspace_dump(leash)
    broken = policy(one={**ALL, "rate": {"writes": "10/fortnight"}})

    with pytest.raises(PolicyError):
        leash.load(broken)
    assert keyspace_dump(leash) == before


def test_old_guard_is_stale_from_the_instant_of_activation(leash: Leash) -> None:
    """A call of the old guard is denied as stale, and nothing runs."""
    leash.load(one=ALL)
    token, old = leash.issue("one").token, leash.digest("one")
    leash.load(one=OTHER)

    assert leash.raw("one", ["doc:1"], token, "c", "SET", "doc:1", "x", digest=old) == (
        "LEASH POLICY_STALE"
    )
    assert leash.admin.exists("doc:1") == 0
    assert leash.denials("one") == []


RICH = {**ALL, "rate": {"requests": "100/hour"}, "budget": {"requests": "50/day", "reads": "9/day"}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (RICH, ALL),
        (ALL, RICH),
        (RICH, {**ALL, "rate": {"requests": {"limit": "100/hour", "burst": 5}}}),
        (RICH, {**ALL, "budget": {"requests": {"limit": "50/day", "per": "token"}}}),
    ],
    ids=["limits-removed", "limits-added", "ring-to-gcra", "per-token"],
)
def test_old_guard_is_stale_whatever_the_new_state_looks_like(
    leash: Leash, before: dict[str, Any], after: dict[str, Any]
) -> None:
    """A shorter state must not make it fail in another way, from which no client recovers."""
    leash.load(one=before)
    issued, old = leash.issue("one"), leash.digest("one")
    agent = leash.client(issued.token)
    agent.get("doc:1")
    leash.load(one=after)

    answer = leash.raw("one", ["doc:1"], issued.token, "c", "GET", "doc:1", digest=old)
    assert answer == "LEASH POLICY_STALE"
    # A rate that gains a burst starts as used up.
    with contextlib.suppress(keyleash.RateLimitedError):
        assert agent.get("doc:1") is None


def test_wrapper_follows_a_new_policy_within_the_call(leash: Leash) -> None:
    """Narrowed or widened, the next call is judged by the new rules."""
    leash.load(one=ALL)
    agent = leash.agent("one")
    agent.set("doc:1", "x")
    leash.load(one=OTHER)

    with pytest.raises(keyleash.ClassNotGrantedError):
        agent.set("doc:1", "y")
    assert agent.get("doc:1") == b"x"


def test_unchanged_identity_keeps_its_guard_across_a_load(leash: Leash) -> None:
    """Only those whose rules changed have anything to notice."""
    leash.load(one=ALL, two=ALL)
    before = leash.digest("one"), leash.digest("two")
    leash.load(one=ALL, two=OTHER)

    assert leash.digest("one") == before[0]
    assert leash.digest("two") != before[1]


def test_identity_that_leaves_the_policy_is_stopped_at_once(leash: Leash) -> None:
    """Both through a wrapper that knows its guard, and by the bare digest."""
    leash.load(one=ALL, two=OTHER)
    issued, digest = leash.issue("one"), leash.digest("one")
    agent = leash.client(issued.token)
    agent.set("doc:1", "x")
    result = leash.load(two=OTHER)

    assert result.removed == ("one",)
    with pytest.raises(keyleash.NotActiveError):
        agent.set("doc:1", "y")
    answer = leash.raw("one", ["doc:1"], issued.token, "c", "GET", "doc:1", digest=digest)
    assert answer == "LEASH POLICY_STALE"


def test_identity_that_comes_back_finds_its_counters(leash: Leash) -> None:
    """Leaving and coming back is no way to a fresh budget."""
    limited = {**ALL, "budget": {"writes": "3/month"}}
    leash.load(one=limited, two=OTHER)
    agent = leash.agent("one")
    agent.set("doc:1", "x")
    leash.load(two=OTHER)
    assert leash.admin.pttl(NAMES.state("one")) > 31 * 86_400_000
    leash.load(one=limited, two=OTHER)

    assert leash.admin.pttl(NAMES.state("one")) == -1
    agent.set("doc:1", "x")
    agent.set("doc:1", "x")
    with pytest.raises(keyleash.BudgetExhaustedError):
        agent.set("doc:1", "x")


def test_reload_with_a_limit_in_front_keeps_what_others_counted(leash: Leash) -> None:
    """Limits move by name, not by place."""
    leash.load(one={**ALL, "budget": {"writes": "3/month"}})
    agent = leash.agent("one")
    agent.set("doc:1", "x")
    agent.set("doc:1", "x")
    leash.load(
        one={
            **ALL,
            "rate": {"requests": "100/hour"},
            "budget": {"requests": "9/month", "writes": "3/month"},
        }
    )

    agent.set("doc:1", "x")
    with pytest.raises(keyleash.BudgetExhaustedError) as refusal:
        agent.set("doc:1", "x")
    assert refusal.value.details["limit"] == "budget.writes"


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        ("5/hour", "8/hour", 5),
        ("5/hour", "3/hour", 0),
        ("5/hour", "5/day", 2),
        ("5/hour", {"limit": "5/hour", "burst": 5}, 0),
        ({"limit": "5/hour", "burst": 5}, {"limit": "8/hour", "burst": 8}, 5),
        ({"limit": "5/hour", "burst": 5}, "8/hour", 0),
    ],
    ids=["larger", "smaller", "longer", "burst-added", "gcra-larger", "burst-removed"],
)
def test_changed_rate_keeps_what_it_counted(
    leash: Leash, before: Any, after: Any, left: int
) -> None:
    """After three calls, `left` more are allowed: a ring is resized, and a GCRA keeps its debt.

    A rate that gains or loses its burst starts as used up.
    """
    leash.load(one={**ALL, "rate": {"writes": before}})
    agent = leash.agent("one")
    for _ in range(3):
        agent.set("doc:1", "x")
    leash.load(one={**ALL, "rate": {"writes": after}})

    done = 0
    for _ in range(9):
        try:
            agent.set("doc:1", "x")
            done += 1
        except keyleash.RateLimitedError:
            pass
    assert done == left


def test_suspended_identity_refuses_every_call_until_it_is_resumed(leash: Leash) -> None:
    """It also lasts across a load, and each change is reported once."""
    leash.load(one=ALL)
    agent = leash.agent("one")

    assert freeze(replace(leash.store, actor="oncall"), "one", reason="x").identities[0].changed
    assert not freeze(leash.store, "one", reason="x").identities[0].changed
    leash.load(one=OTHER)
    with pytest.raises(keyleash.SuspendedError):
        agent.get("doc:1")
    assert thaw(leash.store, "one").identities[0].changed
    assert agent.get("doc:1") is None
    with raises_code("unknown-identity"):
        freeze(leash.store, "missing", reason="x")


def test_identity_that_was_never_loaded_is_not_active(leash: Leash) -> None:
    """A token for it opens nothing."""
    leash.load(one=ALL)

    with pytest.raises(keyleash.NotActiveError) as refusal:
        leash.client("kl_two_" + "x" * 32).get("doc:1")
    assert refusal.value.details == {"identity": "two"}


def test_lost_state_stops_the_identity_rather_than_resetting_it(leash: Leash) -> None:
    """Evicted or deleted counters are no counters, so nothing passes."""
    leash.load(one={**ALL, "rate": {"writes": "5/hour"}})
    agent = leash.agent("one")
    agent.set("doc:1", "x")
    leash.admin.delete(NAMES.state("one"))

    with pytest.raises(keyleash.NotActiveError):
        agent.get("doc:1")
    assert leash.load(one={**ALL, "rate": {"writes": "5/hour"}}).changed is True
    assert agent.get("doc:1") == b"x"


def test_guard_from_before_a_flush_never_acts_on_a_later_policy(leash: Leash) -> None:
    """Generations restart after a flush; the stamp of a state does not repeat."""
    leash.load(one=ALL)
    old = leash.digest("one")
    leash.admin.flushall()
    assert leash.load(one=OTHER).generation == 1
    token = leash.issue("one").token

    answer = leash.raw("one", ["doc:1"], token, "c", "SET", "doc:1", "x", digest=old)
    assert answer == "LEASH POLICY_STALE"


def test_two_loads_at_once_leave_one_of_them_active(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower load fails, and has changed nothing that is active."""
    leash.load(one=ALL)

    def overtaken(*args: Any) -> None:
        record_sources(*args)
        monkeypatch.setattr(activate, "record_sources", record_sources)
        load_policy(leash.store, policy(one={**OTHER, "rate": {"reads": "7/hour"}}))

    monkeypatch.setattr(activate, "record_sources", overtaken)
    with raises_code("activation-conflict"):
        leash.load(one=OTHER)
    agent = leash.agent("one")
    for _ in range(7):
        agent.get("doc:1")
    with pytest.raises(keyleash.RateLimitedError):
        agent.get("doc:1")


def test_interrupted_load_leaves_the_old_policy_whole(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the one atomic script has run, nothing of the new policy holds."""
    leash.load(one=ALL)
    agent = leash.agent("one")

    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(activate, "diff_with_server", interrupted)
    with pytest.raises(KeyboardInterrupt):
        leash.load(one=OTHER)
    monkeypatch.undo()
    assert agent.set("doc:1", "x") is True
    leash.admin.script_flush()
    assert agent.set("doc:1", "y") is True
    assert leash.load(one=OTHER).changed is True


def test_server_that_names_a_script_otherwise_activates_nothing(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest is an identity: it is compared, never overwritten."""
    monkeypatch.setattr(
        redis.client.Pipeline,
        "script_load",
        lambda pipe, text: pipe.execute_command("SCRIPT LOAD", f"{text} "),
    )

    with raises_code("digest-mismatch"):
        leash.load(one=ALL)
    assert leash.admin.exists(NAMES.policy) == 0


def test_old_scripts_are_forgotten_in_the_source_record(leash: Leash) -> None:
    """Only the active guard can be healed from it."""
    leash.load(one=ALL)
    leash.load(one=OTHER)

    record = guard_record(leash.admin.hgetall(NAMES.guard("one")))
    assert record is not None
    kept = {digest.decode() for digest in leash.admin.hkeys(NAMES.source("one"))}
    assert kept == {*record.digests}
    leash.load(two=OTHER)
    assert leash.admin.exists(NAMES.source("one")) == 0


def test_loads_under_traffic_refuse_no_agent(leash: Leash) -> None:
    """Wrappers refresh inside the call: an agent that may act under both policies never notices."""
    variants = [{**ALL, "budget": {"requests": f"{n}/month"}} for n in (100_000, 200_000)]
    leash.load(one=variants[0])
    failures: list[Exception] = []
    done = [0] * 4
    stop = threading.Event()

    def work(number: int) -> None:
        agent = leash.agent("one")
        while not stop.is_set():
            try:
                agent.set("doc:1", "x")
                done[number] += 1
            except redis.RedisError as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for i in range(1, 11):
            leash.load(one=variants[i % 2])
            # A second load between the two attempts of one call would make it fail as stale.
            least = [count + 2 for count in done]
            wait_until(lambda least=least: failures or all(map(ge, done, least)))
    finally:
        stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_activation_is_in_the_control_stream(leash: Leash) -> None:
    """Who made which rules of which identity active, and which policy was before."""
    first = leash.load(two=ALL)
    result = leash.load(one=ALL)

    (_, begun), (_, event) = leash.admin.xrange(NAMES.control)
    assert (begun[b"from"], event[b"from"].decode()) == (b"", first.digest)
    assert event[b"event"] == b"activate"
    assert (event[b"actor"], event[b"generation"]) == (b"ops", b"2")
    assert event[b"digest"].decode() == result.digest
    assert b'"one"' in event[b"identities"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda admin: admin.set(NAMES.guard("two"), "not a hash"),
        lambda admin: admin.set(NAMES.layouts, "not a hash"),
        lambda admin: admin.set(NAMES.control, "not a stream"),
    ],
    ids=["guard-record", "layouts", "control"],
)
def test_activation_over_a_damaged_record_changes_nothing(leash: Leash, damage: Any) -> None:
    """A script error does not roll back, so all that can fail comes before the first write."""
    leash.load(one=ALL, two=ALL)
    digest, token = leash.digest("one"), leash.issue("one").token
    damage(leash.admin)

    with pytest.raises(redis.ResponseError):
        leash.load(one=OTHER, two=OTHER)
    assert leash.digest("one") == digest
    assert leash.raw("one", ["doc:1"], token, "c", "SET", "doc:1", "x") == b"OK"


@pytest.mark.parametrize("changed", [False, True], ids=["same-policy", "other-policy"])
def test_damaged_guard_record_is_written_again_by_a_load(leash: Leash, changed: bool) -> None:
    """A record without some of its fields matches no guard, so it does not stop the load."""
    leash.load(one=ALL, two=ALL)
    whole = leash.admin.hgetall(NAMES.guard("one"))
    leash.admin.hdel(NAMES.guard("one"), "batch_digest", "ttl_s")
    result = leash.load(one=ALL, two=OTHER if changed else ALL)

    assert result.changed
    repaired = leash.admin.hgetall(NAMES.guard("one"))
    assert {**repaired, b"generation": b"1"} == whole
    assert leash.agent("one").set("doc:1", "x")


def test_identity_with_a_damaged_guard_record_is_removed_by_a_load(leash: Leash) -> None:
    """Otherwise its guard would remain in use."""
    leash.load(one=ALL, two=ALL)
    token, digest = leash.issue("one").token, leash.digest("one")
    leash.admin.hdel(NAMES.guard("one"), "batch_digest")
    result = leash.load(two=ALL)

    assert result.removed == ("one",)
    assert not leash.admin.exists(NAMES.guard("one"))
    reply = leash.raw("one", ["doc:1"], token, "c", "SET", "doc:1", "x", digest=digest)
    assert reply.startswith("LEASH ")
