"""Guards of a cluster, their home, and the requests and vouchers between them, on one server."""

from __future__ import annotations

import random
import string
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import redis

from keyleash.store.keyspace import HOME_TAG, Keyspace
from keyleash.store.leases import EPOCH_FIELD, MIN_RATE_LIFE_US
from keyleash.store.placement import SLOTS, key_slot, tag_of
from keyleash.store.scripts import EXPIRE_LEASES
from keyleash.store.state import unpack_state
from keyleash.store.token import REVOKED_OFFSET, token_digest
from keyleash.store.wire import BatchMode
from support.leash import grant
from support.servers import RealServer
from support.shards import HOME, NEEDED, Sharded, most_in_a_second
from support.vouchers import Request, Voucher

ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="doc:*")]}
SET = ("SET", "doc:a", "x")
TAGS = ("a", "b1", "123")


def sharded(server: RealServer, budget: str = "1000/day", **more: Any) -> Sharded:
    return Sharded(server.client(), **ALL, budget={"requests": budget}, **more)


def denial(sharded: Sharded, tag: str, voucher: str = "", words: tuple[str, ...] = SET) -> str:
    with pytest.raises(redis.ResponseError) as error:
        sharded.single(tag, voucher, *words)
    return str(error.value)


def test_first_call_at_a_shard_runs_with_a_lease_of_the_home(server: RealServer) -> None:
    """A shard makes itself; later calls need no home."""
    shards = sharded(server)

    assert shards.call("a", *SET) == b"OK"
    homes = shards.homes
    assert shards.call("a", "GET", "doc:a") == b"x"

    assert (homes, shards.homes) == (2, 2)
    assert shards.shard("a").sequence == 1
    assert shards.client.xlen(Keyspace().at_shard("a").audit("agent")) == 1
    assert shards.used() == 4


def test_identity_without_limits_needs_only_the_lease_of_its_token(server: RealServer) -> None:
    """There are no units to lease."""
    shards = Sharded(server.client(), **ALL)

    assert [shards.call("a", *SET) for _ in range(3)] == [b"OK"] * 3
    assert shards.homes == 1


def test_budget_over_three_shards_and_eight_threads_is_exact(server: RealServer) -> None:
    """The home grants each unit once, and every unit can be used in the end."""
    shards = sharded(server, "500/day")

    def run(seed: int) -> int:
        own = random.Random(seed)
        outcomes = [
            shards.outcome(own.choice(TAGS), "SET", f"doc:{seed}:{number}", "x")
            for number in range(120)
        ]
        return outcomes.count("ran")

    with ThreadPoolExecutor(8) as pool:
        passed = sum(pool.map(run, range(8)))

    left = sum(shards.shard(tag).limits[0].credit for tag in TAGS)
    events = sum(shards.client.xlen(Keyspace().at_shard(tag).audit("agent")) for tag in TAGS)
    assert passed + left == shards.used() == 500
    assert passed == events == len(shards.client.keys("doc:*"))
    # At most a fiftieth of the limit is unused.
    assert left <= 10


@pytest.mark.parametrize("place", range(11))
def test_voucher_with_another_field_is_refused_and_credits_nothing(
    embedded: RealServer, place: int
) -> None:
    """Clients carry vouchers, so they must not be able to change them."""
    shards = sharded(embedded)
    shards.grant(shards.request("a", *SET))
    voucher = shards.grant(shards.request("a", *SET)).split(":")
    voucher[place] = "b" if place == 0 else f"{voucher[place]}7"

    line = denial(shards, "a", ":".join(voucher))

    assert line == "LEASH LEASE_REFUSED reason=voucher"
    assert not any(limit.credit for limit in shards.shard("a").limits)
    shard = Keyspace().at_shard(voucher[0])
    assert shards.denials(shard.denied("agent")) == [b"LEASE_REFUSED"]


def test_voucher_for_another_shard_is_for_that_shard_alone(embedded: RealServer) -> None:
    """It begins with the tag, which names the state that it credits."""
    shards = sharded(embedded)
    voucher = shards.grant(shards.request("a", *SET))

    denial(shards, "b1", voucher)

    assert not shards.client.exists(Keyspace().at_shard("b1").state("agent"))


def test_voucher_credits_once_however_often_it_comes(embedded: RealServer) -> None:
    """A client may lose a reply and send the voucher again, or keep it on purpose."""
    shards = sharded(embedded)
    shards.grant(shards.request("a", *SET))
    shards.call("a", *SET)
    voucher = shards.sent[-1]
    before = shards.shard("a").limits[0].credit

    for _ in range(before):
        shards.single("a", voucher, *SET)

    assert denial(shards, "a", voucher).startswith(NEEDED)


def test_repeated_request_gets_the_same_grant_and_charges_nothing(embedded: RealServer) -> None:
    """A voucher that was lost on its way is not lost for the shard."""
    shards = sharded(embedded)
    shards.leased(shards.single, "a", "GET", "doc:a")
    while shards.shard("a").limits[0].credit:
        shards.call("a", *SET)
    request = shards.request("a", *SET)
    shards.grant(request)
    used = shards.used()

    voucher = shards.grant(request)

    assert shards.used() == used
    assert shards.single("a", voucher, *SET) == b"OK"


@pytest.mark.parametrize("place", range(7))
def test_request_with_another_field_is_refused_and_recorded(
    embedded: RealServer, place: int
) -> None:
    """No client can ask for more than the shard does."""
    shards = sharded(embedded)
    words = shards.request("a", *SET).split(":")
    words[place] = "b" if place == 0 else f"{words[place]}1"

    with pytest.raises(redis.ResponseError, match="LEASE_REFUSED reason=request"):
        shards.grant(":".join(words))

    assert shards.denials(HOME.denied("agent")) == [b"LEASE_REFUSED"]


def test_home_grants_to_the_one_tag_of_each_slot_alone(embedded: RealServer) -> None:
    """Made-up tags are no shards, so they take no units and no place among the shards."""
    shards = Sharded(embedded.client(), **ALL)
    slots = [*range(0, SLOTS, 151), key_slot(HOME_TAG.encode())]
    tags = {tag_of(slot) for slot in slots}
    texts = ["".join(random.choices(string.digits + "mz", k=size)) for size in (2, 3, 4) * 40]
    others = {text for text in texts if tag_of(key_slot(text.encode())) != text}

    ran = {tag for tag in sorted(tags | others) if shards.outcome(tag, *SET) == "ran"}

    assert ran == tags
    assert shards.outcome(others.pop(), *SET) == "LEASH LEASE_REFUSED reason=tag"
    assert set(shards.denials(HOME.denied("agent"))) == {b"LEASE_REFUSED"}
    assert shards.client.hlen(HOME.leases("agent")) == len(tags) + 1


def test_request_from_before_the_newest_grant_is_stale(embedded: RealServer) -> None:
    """An old request, sent again, must not charge the budget."""
    shards = sharded(embedded)
    for _ in range(12):
        shards.call("a", *SET)
    used = shards.used()

    for request in shards.sent[:-2:2]:
        with pytest.raises(redis.ResponseError, match="LEASE_REFUSED reason=stale"):
            shards.grant(request)

    assert shards.used() == used


def test_shard_that_lost_its_state_believes_no_earlier_voucher(embedded: RealServer) -> None:
    """A lost state has no credit; what was granted to it stays unused."""
    shards = sharded(embedded)
    for _ in range(6):
        shards.call("a", *SET)
    shards.client.delete(Keyspace().at_shard("a").state("agent"))
    shards.request("a", *SET)

    for voucher in shards.sent[1::2]:
        assert denial(shards, "a", voucher).startswith(NEEDED)
    assert not any(limit.credit for limit in shards.shard("a").limits)


def expire(shards: Sharded, tag: str, resume: str = "") -> None:
    """Raise the epoch at the home and at a shard."""
    epoch = shards.client.hincrby(HOME.leases("agent"), EPOCH_FIELD, 1)
    words: Any = EXPIRE_LEASES.arguments(
        Keyspace().at_shard(tag), resume, b"", "", "", "agent", epoch
    )
    shards.client.eval(EXPIRE_LEASES.text, *words)


def test_thaw_forgets_the_denials_that_a_shard_counted(embedded: RealServer) -> None:
    """Also of an identity that is not suspended yet, as on one server."""
    breaker: dict[str, Any] = {"on_denials": {"threshold": "3/minute", "suspend": "10m"}}
    shards = Sharded(embedded.client(), **ALL, **breaker)
    denied = ("GET", "other")
    outcomes = [shards.outcome("a", *denied) for _ in range(2)]

    expire(shards, "a", "1")

    outcomes += [shards.outcome("a", *denied) for _ in range(3)]
    assert [line.split()[1] for line in outcomes] == ["KEY_NOT_GRANTED"] * 5
    assert "SUSPENDED" in shards.outcome("a", *denied)


@pytest.mark.parametrize("mode", ["alone", "each"])
def test_calls_of_a_suspended_identity_do_not_lengthen_its_suspension(
    embedded: RealServer, mode: str
) -> None:
    """An agent that goes on calling would never act again; a shard knows its token by then."""
    breaker: dict[str, Any] = {"on_denials": {"threshold": "3/minute", "suspend": "10m"}}
    shards = Sharded(embedded.client(), **ALL, **breaker)
    shards.call("a", *SET)
    for _ in range(3):
        shards.outcome("a", "GET", "other")
    until_us = shards.shard("a").suspended
    assert until_us > 0

    for _ in range(5):
        if mode == "alone":
            assert "SUSPENDED" in shards.outcome("a", *SET)
        else:
            with pytest.raises(redis.ResponseError, match="SUSPENDED"):
                shards.batch("a", "", BatchMode.EACH, SET)

    assert shards.shard("a").suspended == until_us
    refused = Keyspace().at_shard("a").refused("agent")
    assert shards.client.llen(refused) == 0


def test_shard_that_lost_its_state_accepts_no_earlier_lease(embedded: RealServer) -> None:
    """It has lost the epoch that ended the lease of a revoked token."""
    shards = Sharded(embedded.client(), **ALL)
    shards.call("a", *SET)
    record = HOME.token("agent", token_digest(shards.token))
    shards.client.setrange(record, REVOKED_OFFSET, b"\1")
    expire(shards, "a")
    shards.client.delete(Keyspace().at_shard("a").state("agent"))

    assert "TOKEN_REVOKED" in shards.outcome("a", *SET)


def test_epoch_of_a_shard_without_units_does_not_expire(embedded: RealServer) -> None:
    """A state ends by itself only as long as nothing has been decided about it."""
    shards = sharded(embedded)
    shards.grant(shards.request("a", *SET))

    expire(shards, "a")

    assert shards.client.pttl(Keyspace().at_shard("a").state("agent")) == -1


def test_grant_of_another_policy_is_not_repeated(embedded: RealServer) -> None:
    """Units of one limit are none of another, also if their voucher was lost."""
    shards = Sharded(embedded.client(), **ALL, budget={"reads": "1000/day"})
    read = ("GET", "doc:a")
    for _ in range(13):
        shards.call("a", *read)
    while shards.shard("a").limits[0].credit:
        shards.call("a", *read)
    shards.grant(shards.request("a", *read))
    shards.activate(**ALL, budget={"writes": "3/day"})
    expire(shards, "a")

    outcomes = [shards.outcome("a", *SET) for _ in range(20)]

    assert outcomes.count("ran") == 3


def test_token_of_an_earlier_epoch_needs_a_new_lease(embedded: RealServer) -> None:
    """An operator who takes rights away raises the epoch of every shard."""
    shards = sharded(embedded)
    shards.call("a", *SET)
    name = Keyspace().at_shard("a").state("agent")
    shards.client.setrange(name, 16, struct.pack("<d", 2))

    assert denial(shards, "a").startswith(NEEDED)
    shards.client.hset(HOME.leases("agent"), "epoch", 2)
    assert shards.call("a", *SET) == b"OK"


def test_stale_guard_is_denied_by_the_home(embedded: RealServer) -> None:
    """A guard of another policy gets no lease."""
    shards = sharded(embedded)
    old = shards.guard
    shards.activate(**ALL, budget={"requests": "10/day"})
    shards.guard = old

    with pytest.raises(redis.ResponseError, match="POLICY_STALE"):
        shards.call("a", *SET)


def test_lowered_limit_drops_the_credit_of_shards(embedded: RealServer) -> None:
    """Credit of another set of limits is not used; the sequence goes on."""
    shards = sharded(embedded)
    for _ in range(13):
        shards.call("a", *SET)
    assert shards.shard("a").limits[0].credit > 0
    shards.activate(**ALL, budget={"requests": "1/day"})

    assert shards.call("a", *SET) == b"OK"
    with pytest.raises(redis.ResponseError, match="BUDGET_EXHAUSTED"):
        shards.call("a", *SET)
    assert shards.shard("a").sequence == 14


@pytest.mark.parametrize("tag", ["", "abcde", "A", "a:b", "{a}", "a b", HOME_TAG])
def test_what_is_no_tag_of_a_shard_is_denied(embedded: RealServer, tag: str) -> None:
    """A tag becomes part of a name; that of the home is of other keys."""
    shards = sharded(embedded)
    keys = set(shards.client.keys())

    assert denial(shards, tag).startswith("LEASH COMMAND_REFUSED tag=")
    assert set(shards.client.keys()) == keys


def test_state_without_a_grant_expires(embedded: RealServer) -> None:
    """A caller without a token cannot fill the memory by tags that it makes up."""
    shards = sharded(embedded)
    name = Keyspace().at_shard("a").state("agent")
    shards.token = f"kl_agent_{'1' * 32}"
    shards.request("a", *SET)
    assert 0 < shards.client.pttl(name) <= 60_000

    shards.token = f"kl_agent_{'0' * 32}"
    shards.call("a", *SET)

    assert shards.client.pttl(name) == -1


def test_batch_runs_as_far_as_the_budget_goes(embedded: RealServer) -> None:
    """The home grants the rest to a batch that can use a part, and the others are denied."""
    shards = sharded(embedded, "10/day")
    commands = [("SET", f"doc:{number}", "x") for number in range(16)]

    replies = shards.leased(shards.batch, "a", BatchMode.EACH, *commands)

    assert replies[:10] == [b"OK"] * 10
    assert all("BUDGET_EXHAUSTED" in str(reply) for reply in replies[10:])


def test_atomic_batch_beyond_the_budget_runs_nothing(embedded: RealServer) -> None:
    """All or nothing, and nothing is charged."""
    shards = sharded(embedded, "10/day")
    commands = [("SET", f"doc:{number}", "x") for number in range(16)]

    with pytest.raises(redis.ResponseError, match="BUDGET_EXHAUSTED"):
        shards.leased(shards.batch, "a", BatchMode.ALL, *commands)

    assert shards.used() == 0


def test_larger_call_of_the_same_asking_is_asked_for_again(embedded: RealServer) -> None:
    """Its voucher repeats the grant to the smaller call, but more units are left."""
    shards = sharded(embedded, "1000/day")
    shards.call("a", "GET", "doc:0")
    for _ in range(3):
        shards.call("a", "GET", "doc:0")
    smaller = shards.request("a", "GET", "doc:0")
    batch = [("GET", f"doc:{n}") for n in range(30)]
    with pytest.raises(redis.ResponseError, match=NEEDED) as error:
        shards.batch("a", "", BatchMode.ALL, *batch)
    larger = str(error.value).removeprefix(NEEDED)
    shards.grant(smaller)
    voucher = shards.grant(larger)

    with pytest.raises(redis.ResponseError, match=NEEDED):
        shards.batch("a", voucher, BatchMode.ALL, *batch)
    assert shards.leased(shards.batch, "a", BatchMode.ALL, *batch) == [None] * 30


def test_denied_command_of_a_batch_is_recorded_once(embedded: RealServer) -> None:
    """The batch comes twice, since the first time a lease is needed."""
    shards = sharded(embedded)
    shards.call("a", "GET", "doc:a")
    commands = [("GET", "other"), *[("GET", "doc:a") for _ in range(9)]]

    replies = shards.leased(shards.batch, "a", BatchMode.EACH, *commands)

    assert "KEY_NOT_GRANTED" in str(replies[0])
    kinds = shards.client.hgetall(Keyspace().at_shard("a").repeats("agent"))
    assert [count for kind, count in kinds.items() if b"KEY_NOT" in kind and b"id" not in kind] == [
        b"1"
    ]


@pytest.mark.parametrize(
    "limit",
    ["20/second", *({"limit": "20/second", "burst": burst} for burst in (10, 3, 1))],
    ids=["ring", "gcra", "short", "none"],
)
def test_rate_over_three_shards_is_never_exceeded(embedded: RealServer, limit: Any) -> None:
    """Leased units fill their places until they can no longer be used."""
    shards = Sharded(embedded.client(), **ALL, rate={"writes": limit})
    have_run = [shards.outcome(random.choice(TAGS), *SET) == "ran"]
    while sum(have_run) < 50 or all(have_run):
        have_run.append(shards.outcome(random.choice(TAGS), *SET) == "ran")

    burst = 10 if isinstance(limit, str) else limit["burst"]
    assert have_run.index(False) >= (5 if burst == 10 else 1)
    most = 20 if isinstance(limit, str) else 20 + burst - 1
    assert most_in_a_second(shards.ran_ms()) <= most


def test_units_of_a_rate_live_from_the_request_on_though_its_asking_is_older(
    embedded: RealServer,
) -> None:
    """A caller that was denied asks again later, and others have asked before it."""
    shards = Sharded(embedded.client(), **ALL, rate={"writes": {"limit": "60/minute", "burst": 2}})
    shards.call("a", "GET", "doc:a")
    first = Request.parse(shards.request("a", *SET))
    time.sleep(0.05)
    text = shards.request("a", *SET)

    request, (granted,) = Request.parse(text), Voucher.parse(shards.grant(text)).limits
    (asked,) = request.limits
    assert request.asked_us == first.asked_us
    assert asked.window_us >= 50_000
    assert (granted.amount, granted.window_us) == (2, asked.window_us)
    assert granted.life_us == 500_000 + asked.window_us


def test_grants_of_a_short_burst_cost_the_rate_no_time(embedded: RealServer) -> None:
    """The TAT counts from the end of the first life, and then by intervals alone."""
    shards = Sharded(embedded.client(), **ALL, rate={"writes": {"limit": "10/minute", "burst": 5}})
    tats: list[int] = []
    begun_us = shards.client.time()[0] * 1_000_000
    for tag in ("a", "a", "b", "a"):
        assert shards.outcome(tag, *SET) == "ran"
        packed = shards.client.get(HOME.state("agent"))
        assert isinstance(packed, bytes)
        (limit,) = unpack_state(packed, shards.guard.layout).limits
        tats.append(limit.tat_us)

    assert [later - tat for tat, later in pairwise(tats)] == [6_000_000] * 3
    # Granted after the begin, to live for six seconds and use an interval of six.
    assert tats[0] >= begun_us + 12_000_000
    assert shards.outcome("b", *SET) != "ran"


def test_voucher_whose_units_have_expired_is_asked_for_again(embedded: RealServer) -> None:
    """It says nothing about the units that there are now, so it is no denial."""
    shards = Sharded(embedded.client(), **ALL, rate={"writes": "100/second"})
    shards.call("a", "GET", "doc:a")
    voucher = shards.grant(shards.request("a", *SET))
    time.sleep(MIN_RATE_LIFE_US / 1e6 + 0.01)

    assert denial(shards, "a", voucher).startswith(NEEDED)


def test_atomic_batch_beyond_a_rate_has_a_time_to_try_again(embedded: RealServer) -> None:
    """Never zero or negative, though all of the rate is free."""
    shards = Sharded(embedded.client(), **ALL, rate={"writes": "10/minute"})
    commands = [("SET", f"doc:{number}", "x") for number in range(16)]

    with pytest.raises(redis.ResponseError, match="RATE_LIMITED") as error:
        shards.leased(shards.batch, "a", BatchMode.ALL, *commands)

    assert 0 < int(str(error.value).rpartition("=")[2]) <= 60_000


def test_any_bytes_in_a_state_give_a_reply_or_a_denial(embedded: RealServer) -> None:
    """A damaged record may hold anything: no Lua error, and no other identity's rights."""
    shards = sharded(embedded)
    shards.call("a", *SET)
    name = Keyspace().at_shard("a").state("agent")
    good = shards.client.get(name)
    assert isinstance(good, bytes)
    odd = (float("nan"), float("inf"), -float("inf"), -1.0, 0.5, 2.0**60, 0.0)
    own = random.Random(20)
    for _ in range(300):
        state = bytearray(good)
        for place in own.sample(range(len(good) // 8), own.randrange(4)):
            struct.pack_into("<d", state, 8 * place, own.choice(odd))
        shards.client.set(name, bytes(state[: own.choice((len(state), own.randrange(len(state))))]))
        outcome = shards.outcome("a", *SET)
        assert outcome == "ran" or outcome.startswith("LEASH ")
