"""wait=…: what a rate refuses is made again when the guard says that it fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import keyleash
from client.alike import EITHER, ONE_EITHER, Awaited, FakeClock, agent
from keyleash import BudgetExhaustedError, RateLimitedError
from support.leash import Leash, grant

ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="t:*")]}
RATE: dict[str, Any] = {"rate": {"writes": "2/hour"}}


def limited(leash: Leash, wait: Any, **limits: Any) -> tuple[Any, FakeClock]:
    """A client of an identity with a rate, and its clock; a sleep of it frees the rate."""
    leash.load(one={**ALL, **(limits or RATE)})
    client = agent(leash, wait=wait)
    return client, FakeClock(client)


def freeing(leash: Leash, clock: FakeClock) -> None:
    """Let the first sleep end in a policy without a rate, as if the time had passed."""
    clock.at[0] = lambda: leash.load(one=ALL)


@EITHER
def test_refused_call_sleeps_as_told_and_is_made_again(leash: Leash) -> None:
    """For as long as the refusal says, to the millisecond."""
    client, clock = limited(leash, True)
    client.set("t:a", 1)
    client.set("t:b", 1)
    freeing(leash, clock)

    assert client.set("t:c", 1) is True
    (slept,) = clock.slept
    assert 3_590 < slept <= 3_600
    assert leash.admin.get("t:c") == b"1"


@EITHER
@pytest.mark.parametrize("wait", [False, 0, 3000, 0.5])
def test_sleep_past_the_bound_is_not_begun(leash: Leash, wait: Any) -> None:
    """The refusal is raised instead, at once."""
    client, clock = limited(leash, wait)
    client.set("t:a", 1)
    client.set("t:a", 1)

    attempts: list[Callable[[], Any]] = [
        lambda: client.set("t:a", 1),
        lambda: client.pipeline().set("t:a", 1).execute(),
        lambda: client.pipeline(transaction=False).set("t:a", 1).execute(),
    ]
    for attempt in attempts:
        with pytest.raises(RateLimitedError) as refused:
            attempt()
        assert refused.value.retry_after_ms > 3_500_000
    assert clock.slept == []


@ONE_EITHER
def test_bound_is_of_all_sleeps_of_a_call(one_leash: Leash) -> None:
    """Two sleeps of an hour exceed 100 minutes; the next call may sleep again."""
    client, clock = limited(one_leash, 6000)
    client.set("t:a", 1)
    client.set("t:a", 1)

    for calls in (1, 2):
        with pytest.raises(RateLimitedError):
            client.set("t:a", 1)
        assert len(clock.slept) == calls


@EITHER
def test_budget_is_never_waited_for(leash: Leash) -> None:
    """Its next window may be a month away."""
    client, clock = limited(leash, True, budget={"writes": "1/day"})
    client.set("t:a", 1)

    with pytest.raises(BudgetExhaustedError):
        client.set("t:a", 2)
    with pytest.raises(BudgetExhaustedError):
        client.pipeline().set("t:a", 2).execute()
    results = client.pipeline(transaction=False).set("t:a", 2).get("t:a").execute(False)
    assert isinstance(results[0], BudgetExhaustedError)
    assert results[1] == b"1"
    assert clock.slept == []


@EITHER
def test_refused_transaction_is_made_again_as_a_whole(leash: Leash) -> None:
    """Nothing of it ran before."""
    client, clock = limited(leash, True)
    pipe = client.pipeline()
    pipe.incr("t:n").incr("t:n").incr("t:n")
    freeing(leash, clock)

    assert pipe.execute() == [1, 2, 3]
    assert len(clock.slept) == 1
    assert len(leash.denials("one")) == 1


@EITHER
def test_only_what_was_refused_of_a_pipeline_is_sent_again(leash: Leash) -> None:
    """In its order, and its results stand in their places."""
    client, clock = limited(leash, True)
    pipe = client.pipeline(transaction=False)
    pipe.incr("t:n").get("t:n").incr("t:n").incr("t:n").get("u:a").incr("t:n").get("t:n")
    freeing(leash, clock)

    results = pipe.execute(raise_on_error=False)
    assert [result for result in results if not isinstance(result, Exception)] == [
        1,
        b"1",
        2,
        3,
        4,
        b"2",
    ]
    assert isinstance(results[4], keyleash.KeyNotGrantedError)
    assert len(clock.slept) == 1
    assert leash.admin.get("t:n") == b"4"


@EITHER
def test_command_of_a_later_call_does_not_overtake_one_that_waits(leash: Leash) -> None:
    """A long pipeline travels in several calls, and a rate may have room again in between."""
    leash.load(one={**ALL, "rate": {"writes": {"limit": "100000/minute", "burst": 10}}})
    pipe = agent(leash, wait=True).pipeline(transaction=False)
    for number in range(300):
        pipe.rpush("t:list", number)

    assert pipe.execute() == list(range(1, 301))


@EITHER
def test_pipeline_whose_wait_ends_keeps_the_other_results(leash: Leash) -> None:
    """The refusals stay in their places, and with raise_on_error the first is raised."""
    client, clock = limited(leash, 4000)
    pipe = client.pipeline(transaction=False)
    pipe.incr("t:n").incr("t:n").incr("t:n").get("t:n")

    results = pipe.execute(raise_on_error=False)
    assert results[:2] == [1, 2]
    assert isinstance(results[2], RateLimitedError)
    assert results[3] == b"2"
    assert len(clock.slept) == 1
    with pytest.raises(RateLimitedError, match="Command # 1 "):
        client.pipeline(transaction=False).incr("t:n").execute()


@ONE_EITHER
def test_blocking_call_waits_for_a_rate_no_longer_than_for_its_data(one_leash: Leash) -> None:
    """Who gives a queue a second does not want to sleep an hour for a rate."""
    client, clock = limited(one_leash, True)
    client.set("t:a", 1)
    client.set("t:b", 1)
    one_leash.admin.rpush("t:from", "x")

    with pytest.raises(RateLimitedError):
        client.blmove("t:from", "t:to", 1)
    assert clock.slept == []


@EITHER
def test_blocking_call_waits_for_a_rate_and_goes_on(leash: Leash) -> None:
    """A poll that found something and was refused is made again."""
    client, clock = limited(leash, True, rate={"deletes": "1/hour"})
    leash.admin.rpush("t:list", "x", "y")
    assert client.blpop("t:list", 0)
    freeing(leash, clock)

    assert client.blpop("t:list", 0)[1] == b"y"
    assert len(clock.slept) == 1


@ONE_EITHER
def test_wait_belongs_to_every_way_of_making_a_client(one_leash: Leash) -> None:
    """And a client made of a client has it too."""
    token = one_leash.issue("one").token
    client = one_leash.client(token, wait=2)
    kind = type(client._inner) if isinstance(client, Awaited) else type(client)
    for made in (
        client,
        kind.from_url(one_leash.server.url, token=token, wait=2),
        kind.from_pool(client.connection_pool),
    ):
        assert made.connection_pool.connection_class.wait_s == 2
        if not isinstance(made, Awaited):
            assert kind(token=token).connection_pool.connection_class.wait_s == 0


@pytest.mark.parametrize("wait", [-1, float("nan"), -0.001])
def test_wait_that_is_no_time_is_a_value_error(wait: float) -> None:
    """At the constructor."""
    for kind in (keyleash.Redis, keyleash.asyncio.Redis):
        with pytest.raises(ValueError, match="`wait` must be"):
            kind(token="kl_one_secret", wait=wait)


def test_wait_that_is_no_number_is_a_type_error_that_names_it() -> None:
    """At the constructor."""
    wait: Any = "a"
    for kind in (keyleash.Redis, keyleash.asyncio.Redis):
        with pytest.raises(TypeError, match="`wait` must be"):
            kind(token="kl_one_secret", wait=wait)


def test_time_that_is_slept_is_time(one_leash: Leash) -> None:
    """Without a fake clock the rate is not exceeded, and every call passes."""
    one_leash.load(one={**ALL, "rate": {"writes": {"limit": "50/second", "burst": 1}}})
    client = agent(one_leash, wait=True)

    for number in range(5):
        assert client.set("t:a", number) is True
    assert one_leash.admin.get("t:a") == b"4"
