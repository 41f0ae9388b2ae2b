"""Keys that a load stages before activation: invisible to guards, never mixed, never left over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

import keyleash
from keyleash.operator.suspension import freeze
from keyleash.store.staging import LoadStage
from keyleash.store.state import Layout, unpack_state
from support.errors import raises_code
from support.leash import NAMES, Leash, grant, policy
from support.loading import load_policy
from support.servers import RealServer

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="doc:*", only=["get", "set"])]}
PLAIN: dict[str, Any] = {**ALL, "budget": {"requests": "1000000/month"}}
RINGS: dict[str, Any] = {**PLAIN, "rate": {"requests": "90/minute", "writes": "80/hour"}}
BURST: dict[str, Any] = {
    **PLAIN,
    "rate": {"requests": {"limit": "90/minute", "burst": 90}, "writes": "70/hour"},
}
RETAINED: dict[str, Any] = {**RINGS, "audit": {"retain": 1000}}
VARIANTS = {"plain": PLAIN, "rings": RINGS, "burst": BURST, "retained": RETAINED}
"""Of these, each differs from each in where its numbers and rings are, or in its stamp alone."""
CHANGES = [pytest.param(*pair, id="-to-".join(pair)) for pair in permutations(VARIANTS, 2)]


def staged(leash: Leash) -> list[bytes]:
    return list(leash.admin.scan_iter(f"{NAMES.staged_prefix}*"))


def used(leash: Leash, identity: str = "one") -> int:
    """Return the count of the identity's budget."""
    layout = Layout.from_json(leash.admin.hget(NAMES.layouts, identity))
    limits = unpack_state(leash.state(identity), layout).limits
    return next(limit.used for limit in limits if limit.slot.name == "budget.requests")


def at_the_last_moment(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], None]) -> None:
    """Let something happen once, between the staging of states and the activation."""
    put_states = LoadStage.put_states

    def then(stage: LoadStage, *args: Any) -> None:
        put_states(stage, *args)
        monkeypatch.setattr(LoadStage, "put_states", put_states)
        happen()

    monkeypatch.setattr(LoadStage, "put_states", then)


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_calls_between_staging_and_activation_are_counted(
    leash: Leash, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    """The old guard serves up to the last moment, and nothing that it counted is lost."""
    leash.load(one=VARIANTS[before])
    agent = leash.agent("one")
    agent.set("doc:1", "x")

    def call() -> None:
        for _ in range(3):
            agent.set("doc:1", "y")

    at_the_last_moment(monkeypatch, call)
    leash.load(one=VARIANTS[after])

    assert used(leash) == 4
    assert staged(leash) == []


def test_suspension_between_staging_and_activation_holds(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An identity that is suspended during a load stays suspended."""
    leash.load(one=PLAIN)
    agent = leash.agent("one")
    agent.get("doc:1")

    def suspend() -> None:
        freeze(leash.store, "one", reason="x")

    at_the_last_moment(monkeypatch, suspend)

    leash.load(one=RINGS)

    with pytest.raises(keyleash.SuspendedError):
        agent.get("doc:1")


def test_load_that_stops_after_staging_changes_nothing(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old policy is wholly in force, the next load succeeds, and nothing is left over."""
    leash.load(one=RINGS, two=PLAIN)
    agents = leash.agent("one"), leash.agent("two")
    for agent in agents:
        agent.set("doc:1", "x")
    before = leash.digest("one"), leash.digest("two")

    def stop() -> None:
        raise KeyboardInterrupt

    at_the_last_moment(monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        leash.load(one=BURST, two=RINGS)

    assert (leash.digest("one"), leash.digest("two")) == before
    assert staged(leash) == []
    for agent in agents:
        agent.set("doc:1", "y")
    assert leash.load(one=BURST, two=RINGS).generation == 2
    assert (used(leash, "one"), used(leash, "two")) == (2, 2)
    assert staged(leash) == []


def test_what_a_load_that_died_has_staged_expires(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing cleans up after a killed process, and no later load looks at its keys."""
    leash.load(one=RINGS)
    leash.agent("one").set("doc:1", "x")
    with monkeypatch.context() as patched:
        patched.setattr(LoadStage, "discard", lambda _: None)
        patched.setattr("keyleash.operator.load.activate._activate", _killed)
        with pytest.raises(KeyboardInterrupt):
            leash.load(one=BURST)
    left = staged(leash)

    assert len(left) == 5
    assert all(leash.admin.pttl(name) > 0 for name in left)
    assert leash.load(one=BURST).changed is True
    assert sorted(staged(leash)) == sorted(left)
    assert all(leash.admin.pttl(name) == -1 for name in (NAMES.policy, NAMES.layouts))
    assert leash.admin.pttl(NAMES.state("one")) == -1


def _killed(*_: Any) -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize("lost", ["policy", "layouts", "guard:two", "state:one"])
def test_load_whose_staged_keys_are_gone_activates_nothing(
    leash: Leash, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Expired or evicted: it is seen before the first write."""
    leash.load(one=RINGS, two=PLAIN)
    agent, digest = leash.agent("one"), leash.digest("one")
    agent.set("doc:1", "x")

    def lose() -> None:
        leash.admin.delete(*(name for name in staged(leash) if name.endswith(lost.encode())))

    at_the_last_moment(monkeypatch, lose)
    with raises_code("activation-conflict"):
        leash.load(one=BURST, two=RINGS)

    assert leash.digest("one") == digest
    assert leash.admin.hget(NAMES.policy, "generation") == b"1"
    agent.set("doc:1", "y")
    assert used(leash) == 2


def test_of_two_loads_with_staged_states_one_wins_wholly(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each load has its own staged keys; the slower one fails and leaves none."""
    leash.load(one=RINGS, two=RINGS)
    agents = leash.agent("one"), leash.agent("two")
    for agent in agents:
        agent.set("doc:1", "x")
    faster = policy(one=PLAIN, two={**PLAIN, "rate": {"requests": "2/hour"}})

    def overtake() -> None:
        load_policy(leash.store, faster)

    at_the_last_moment(monkeypatch, overtake)
    with raises_code("activation-conflict"):
        leash.load(one=BURST, two=BURST)

    for agent in agents:
        agent.set("doc:1", "y")
    assert (used(leash, "one"), used(leash, "two")) == (2, 2)
    with pytest.raises(keyleash.RateLimitedError):
        agents[1].get("doc:1")
    assert staged(leash) == []


def test_every_call_is_counted_once_while_loads_follow_each_other(leash: Leash) -> None:
    """Under traffic: what passed is what the budget has counted, whatever the layouts were."""
    variants = [
        PLAIN,
        {**PLAIN, "rate": {"requests": "50000/minute"}},
        {**PLAIN, "rate": {"requests": "60000/minute", "writes": "70000/day"}},
        {**PLAIN, "rate": {"writes": "70000/day"}, "budget": {"reads": "9/day", **PLAIN["budget"]}},
    ]
    leash.load(one=variants[0])
    token = leash.issue("one").token
    passed: list[int] = []
    stop = threading.Event()

    def work() -> None:
        agent, done = leash.client(token), 0
        while not stop.is_set():
            try:
                agent.set("doc:1", "x")
            except keyleash.PolicyStaleError:
                continue  # two loads within one call
            done += 1
        passed.append(done)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(1, 21):
        leash.load(one=variants[turn % len(variants)])
    stop.set()
    for thread in threads:
        thread.join()

    assert len(passed) == len(threads)
    events = leash.admin.xinfo_stream(leash.audit_name("one"))["entries-added"]
    assert used(leash) == sum(passed) == events


@pytest.mark.slow
def test_thousand_identities_are_loaded_and_changed_and_answer(embedded: RealServer) -> None:
    """More than one command's worth: new, of other limits, unchanged, gone and back."""
    leash = Leash(embedded)
    names = [f"agent-{number}" for number in range(1001)]
    leash.load(policy(**dict.fromkeys(names, PLAIN)))
    agents = {name: leash.agent(name) for name in names[::500]}
    for agent in agents.values():
        agent.set("doc:1", "x")

    # The first keep their guards.
    moved = {**PLAIN, "budget": {"reads": "9/day", **PLAIN["budget"]}}
    leash.load(policy(**dict.fromkeys(names[:300], PLAIN), **dict.fromkeys(names[300:], moved)))
    for agent in agents.values():
        assert agent.get("doc:1") == b"x"
    assert {used(leash, name) for name in agents} == {2}

    assert sorted(leash.load(policy(last=PLAIN)).removed) == sorted(names)
    with pytest.raises(keyleash.NotActiveError):
        agents[names[0]].get("doc:1")
    leash.load(policy(**dict.fromkeys(names, RINGS)))
    for agent in agents.values():
        assert agent.get("doc:1") == b"x"
    assert {used(leash, name) for name in agents} == {3}
    assert staged(leash) == []
