"""Bound tokens on shards: vouchers bring the restrictions, and units of caps are leased."""

from __future__ import annotations

import contextlib
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import redis

from keyleash.commands import OperationClass
from keyleash.compiler import leases
from keyleash.compiler.leases import RECORD_BYTES
from keyleash.limits import Counter
from keyleash.limits.budget import BudgetCount
from keyleash.limits.calendar import Period
from keyleash.limits.caps import Cap
from keyleash.store.keyspace import account
from keyleash.store.leases import BUDGET_SHARES, EPOCH_FIELD, unpack_shard
from keyleash.store.restrictions import Restrictions, restrictions_of
from keyleash.store.token import CAP_BYTES, TAIL_HEADER_BYTES, TokenRecord, token_digest
from keyleash.store.wire import BatchMode
from support.leash import grant
from support.servers import RealServer
from support.shards import HOME, NEEDED, Sharded
from support.vouchers import Voucher

BODY: dict[str, Any] = {
    "token": {"bound": True},
    "grants": [grant("read", "write", keys=["doc:{id}:*", "shared"])],
}
BOUND = f"kl_agent_{'1' * 32}"
SET = ("SET", "doc:7:a", "x")
GET = ("GET", "doc:7:a")
TAGS = ("a", "b1", "c2")
CAPS = ("requests", "reads", "writes", "deletes", "bytes_written")
PLACES = {name: place for place, name in enumerate(CAPS)}
HOME_RECORD = HOME.token("agent", token_digest(BOUND))
OTHER = ("SET", "doc:8:a", "x")
DENIED = "LEASH KEY_NOT_GRANTED key=doc:8:a by=token"


def sharded(server: RealServer, restrictions: Restrictions, **more: Any) -> Sharded:
    """Return shards that are called with a bound token."""
    shards = Sharded(server.client(), **BODY, **more)
    shards.put_token(BOUND, restrictions)
    shards.token = BOUND
    return shards


def caps(**limits: int | str) -> Restrictions:
    """Return caps: `97` for the life of the token, or `97/hour`."""
    counts = []
    for name, text in limits.items():
        limit, _, period = str(text).partition("/")
        cap = replace(Cap.of(Counter(name)), limit=int(limit))
        if period:
            cap = replace(cap, period=Period(period), is_for_life=False)
        counts.append(cap.new_count())
    return Restrictions(counts=tuple(counts))


def counts(shards: Sharded) -> tuple[BudgetCount, ...]:
    """Return what the home has charged to the caps."""
    record = shards.client.get(HOME_RECORD)
    assert isinstance(record, bytes)
    restrictions = restrictions_of(TokenRecord.unpack(record))
    assert restrictions is not None
    return restrictions.counts


def unspent(shards: Sharded, counter: str) -> int:
    """Return the units of a cap that all shards have."""
    names = [HOME.at_shard(tag).state(account("agent", BOUND[-12:])) for tag in TAGS]
    found = map(shards.client.get, names)
    states = [unpack_shard(item) for item in found if isinstance(item, bytes)]
    return sum(state.limits[PLACES[counter]].credit for state in states if state.limits)


def run_somewhere(shards: Sharded, times: int, seed: int, words: tuple[str, ...] = SET) -> int:
    """Make calls at any shards; return how many ran."""
    own = random.Random(seed)
    return [shards.outcome(own.choice(TAGS), *words) for _ in range(times)].count("ran")


def denial(shards: Sharded, voucher: str, *words: str) -> str:
    with pytest.raises(redis.ResponseError) as error:
        shards.single("a", voucher, *words)
    return str(error.value)


def test_restrictions_come_with_the_lease_and_cost_no_round_trip(server: RealServer) -> None:
    """One request and one voucher, for a bound token as for any other."""
    shards = sharded(server, Restrictions({"id": b"7"}))

    assert shards.outcome("a", *OTHER) == DENIED
    assert shards.call("a", *SET) == b"OK"
    assert shards.homes == 1
    shards.token = f"kl_agent_{'0' * 32}"
    assert shards.call("a", *OTHER) == b"OK"
    assert shards.homes == 2


def test_voucher_with_other_restrictions_is_refused(embedded: RealServer) -> None:
    """They are signed with the rest."""
    shards = sharded(embedded, Restrictions({"id": b"7"}))
    voucher = shards.grant(shards.request("a", *SET))
    parsed = Voucher.verify(voucher, shards.key)
    *words, restrictions, signature = voucher.split(":")

    assert parsed.restrictions == Restrictions({"id": b"7"}).pack()
    assert parsed.write(shards.key) == voucher
    for other in ("-", restrictions.replace("37", "38"), restrictions + "00", "", "0"):
        changed = ":".join([*words, other, signature])
        assert denial(shards, changed, *OTHER) == "LEASH LEASE_REFUSED reason=voucher"
    assert denial(shards, ":".join([*words, signature]), *SET).endswith("reason=voucher")


def test_voucher_of_an_unbound_token_has_no_restrictions(embedded: RealServer) -> None:
    """It binds nothing, and widens no other token."""
    shards = sharded(embedded, Restrictions({"id": b"7"}))
    shards.token = f"kl_agent_{'0' * 32}"
    voucher = shards.grant(shards.request("a", *OTHER))
    assert Voucher.verify(voucher, shards.key).restrictions == b""

    assert shards.single("a", voucher, *OTHER) == b"OK"
    shards.token = BOUND
    assert denial(shards, voucher, *OTHER).startswith(NEEDED)


def test_longest_restrictions_fit_into_a_voucher(embedded: RealServer) -> None:
    """Every identity with limits has room for them."""
    bind = {f"{letter * 64}": b"7" * 200 for letter in "abcdefghijklmno"}
    shards = sharded(embedded, Restrictions({"id": b"7", **bind}), budget={"writes": "9/day"})

    assert shards.outcome("a", *SET).startswith("LEASH KEY_NOT_GRANTED")
    assert len(shards.sent[-1]) > 8000


def test_any_bytes_in_the_record_of_a_shard_give_a_reply_or_a_denial(embedded: RealServer) -> None:
    """A damaged record may hold anything: no Lua error, and nothing beyond its identity."""
    allow = (OperationClass.READ, OperationClass.WRITE)
    shards = sharded(embedded, Restrictions({"id": b"7"}, allow))
    shards.call("a", *SET)
    name = HOME.at_shard("a").token("agent", token_digest(BOUND))
    good = shards.client.get(name)
    assert isinstance(good, bytes)
    own = random.Random(21)
    tails = [good[RECORD_BYTES:end] for end in range(RECORD_BYTES + 1, len(good))]
    tails += [own.randbytes(own.randrange(1, 60)) for _ in range(300)]
    tails += [own.randbytes(5000)]
    for tail in tails:
        shards.client.set(name, good[:RECORD_BYTES] + tail, keepttl=True)
        outcome = shards.outcome("a", *SET)
        assert outcome == "ran" or outcome.startswith("LEASH ")
        assert shards.outcome("a", "SET", "else", "x").startswith("LEASH ")
    for tail in tails[: len(good) - RECORD_BYTES - 1]:
        shards.client.set(name, good[:RECORD_BYTES] + tail, keepttl=True)
        assert shards.outcome("a", *SET).startswith("LEASH ")


@pytest.mark.parametrize("units", [None, 1, 100])
@pytest.mark.parametrize("cap", [97, "97/day"])
def test_cap_over_three_shards_and_eight_threads_is_exact(
    embedded: RealServer, monkeypatch: pytest.MonkeyPatch, units: int | None, cap: int | str
) -> None:
    """Each unit is granted once, and those that a shard has left are few."""
    if units:
        always: Any = leases._CONSTANTS
        values = {"first_amount": units, "growth": 1, "budget_shares": 1e-9 if units > 1 else 1e9}
        for name, value in values.items():
            monkeypatch.setitem(always, name, value)
    shards = sharded(embedded, caps(writes=cap, requests=200))

    with ThreadPoolExecutor(8) as pool:
        passed = sum(pool.map(lambda seed: run_somewhere(shards, 30, seed), range(8)))

    charged = next(count.count for count in counts(shards) if count.limit.name == "token.writes")
    assert passed + unspent(shards, "writes") == charged == 97
    # What is unused at one shard can be used there.
    for tag in TAGS:
        while shards.outcome(tag, *SET) == "ran":
            passed += 1
    assert passed == 97
    assert shards.outcome("a", *SET).startswith("LEASH BUDGET_EXHAUSTED limit=token.writes")
    assert shards.outcome("a", *GET) == "ran"


@pytest.mark.parametrize("units", [None, 1])
def test_cap_of_bytes_over_three_shards_is_exact(
    embedded: RealServer, monkeypatch: pytest.MonkeyPatch, units: int | None
) -> None:
    """No byte is used twice; a SET writes 8 bytes, alone and in batches."""
    for name in ("first_amount", "growth") if units else ():
        monkeypatch.setitem(leases._CONSTANTS, name, units)
    shards = sharded(embedded, caps(bytes_written=779, reads=900))

    with ThreadPoolExecutor(8) as pool:
        passed = sum(pool.map(lambda seed: run_somewhere(shards, 10, seed), range(8)))
    commands = [("SET", "doc:7:a", "x"), ("GET", "doc:7:a")] * 9
    replies = shards.leased(shards.batch, "a", BatchMode.EACH, *commands)
    passed += replies.count(b"OK")
    assert replies.count(b"x") == 9
    for tag in TAGS:
        while shards.outcome(tag, *SET) == "ran":
            passed += 1
    charged = counts(shards)[0].count
    assert passed * 8 + unspent(shards, "bytes_written") == charged <= 779
    # At the home and at each shard a part of a call may be left.
    assert passed * 8 >= 779 - 4 * 7
    assert shards.outcome("a", *SET).startswith("LEASH BUDGET_EXHAUSTED limit=token.bytes_written")
    assert shards.outcome("a", *GET) == "ran"


def test_cap_is_charged_with_all_other_limits_or_none(embedded: RealServer) -> None:
    """Limits of the identity and of each token, and caps, hold together."""
    limits = {"writes": {"limit": "60/day", "per": "token"}, "requests": "50/day"}
    shards = sharded(embedded, caps(writes=20, reads=10, requests=25), budget=limits)

    assert run_somewhere(shards, 40, 1) == 20
    assert run_somewhere(shards, 40, 2, GET) == 5
    assert shards.outcome("a", "PING").startswith("LEASH BUDGET_EXHAUSTED limit=token.requests")
    assert [count.count for count in counts(shards)][::2] == [20, 25]
    assert unspent(shards, "writes") == unspent(shards, "requests") == 0
    shards.token = f"kl_agent_{'0' * 32}"
    assert run_somewhere(shards, 40, 3) == 25


def test_nothing_that_was_sent_credits_a_cap_again(embedded: RealServer) -> None:
    """Requests and vouchers may be repeated, in any order."""
    shards = sharded(embedded, caps(writes=40))
    passed = run_somewhere(shards, 30, 4)
    before = counts(shards)[0].count, unspent(shards, "writes")
    sent = list(shards.sent)
    own = random.Random(5)
    for _ in range(300):
        text = own.choice(sent)
        with contextlib.suppress(redis.ResponseError):
            if sent.index(text) % 2:
                shards.single(text.partition(":")[0], text, "PING")
            else:
                shards.grant(text)

    assert (counts(shards)[0].count, unspent(shards, "writes")) == before
    assert passed + run_somewhere(shards, 60, 6) + unspent(shards, "writes") == 40


def test_token_without_caps_costs_no_units_and_no_further_calls(embedded: RealServer) -> None:
    """Its account is not read, neither at the shard nor at the home."""
    shards = sharded(embedded, Restrictions({"id": b"7"}))

    assert [shards.outcome(tag, *SET) for tag in TAGS for _ in range(5)] == ["ran"] * 15
    assert shards.homes == 3
    of_token = account("agent", BOUND[-12:])
    assert not shards.client.exists(HOME.leases(of_token))
    assert not shards.client.exists(HOME.at_shard("a").state(of_token))


def test_cap_for_life_goes_on_when_the_life_of_the_token_changes(embedded: RealServer) -> None:
    """Its window is the same, so units that shards have stay usable and charged once."""
    shards = sharded(embedded, caps(writes=1000))
    passed = run_somewhere(shards, 90, 7)
    left = unspent(shards, "writes")
    assert left > 0
    record = shards.client.get(HOME_RECORD)
    assert isinstance(record, bytes)
    expires_us = TokenRecord.unpack(record).expires_us + 1e9
    shards.client.setrange(HOME_RECORD, 0, struct.pack("<d", expires_us))
    shards.client.pexpire(HOME_RECORD, 7 * 86_400_000 + 4_600_000)

    for seed in range(8, 40):
        passed += run_somewhere(shards, 50, seed)
    for tag in TAGS:
        while shards.outcome(tag, *SET) == "ran":
            passed += 1
    assert passed == 1000


def test_batch_runs_as_far_as_its_cap_goes(embedded: RealServer) -> None:
    """The home grants the rest to a batch that can use a part, and the others are denied."""
    shards = sharded(embedded, caps(writes=10))
    commands = [("SET", f"doc:7:{number}", "x") for number in range(16)]

    replies = shards.leased(shards.batch, "a", BatchMode.EACH, *commands)

    assert replies[:10] == [b"OK"] * 10
    assert all("limit=token.writes" in str(reply) for reply in replies[10:])


def test_any_bytes_in_caps_at_the_home_give_a_reply_or_a_denial(embedded: RealServer) -> None:
    """A damaged record may hold anything: no Lua error, and nothing beyond its identity."""
    shards = sharded(embedded, caps(writes=9, requests="9/month", reads="9/minute"))
    good = shards.client.get(HOME_RECORD)
    assert isinstance(good, bytes)
    odd = (float("nan"), float("inf"), -float("inf"), -1.0, 0.5, 2.0**60, 0.0, 60e6)
    own = random.Random(22)
    at = len(TokenRecord(BOUND[-12:], 0, 0).pack()) + TAIL_HEADER_BYTES
    for number in range(300):
        record = bytearray(good)
        for _ in range(own.randrange(1, 4)):
            cap, field = own.randrange(3), own.randrange(5)
            place = at + cap * CAP_BYTES + (1 + 8 * (field - 1) if field else 0)
            packed = struct.pack("<d", own.choice(odd)) if field else own.randbytes(1)
            record[place : place + len(packed)] = packed
        shards.client.set(HOME_RECORD, bytes(record), keepttl=True)
        for tag in TAGS:
            for name in shards.client.keys(f"{HOME.at_shard(tag).root}*:agent:*"):
                shards.client.delete(name)
        outcome = shards.outcome(TAGS[number % 3], *own.choice((SET, GET)))
        assert outcome in ("ran", NEEDED) or outcome.startswith("LEASH ")
        assert "user_script" not in outcome


def delegated(shards: Sharded, *words: str) -> Any:
    """Let the home make a child of the token, with a digest and words."""
    name = shards.home.guard("agent")
    return shards.client.evalsha(
        shards.guard.lease_digest, 1, name, shards.token, "c", "delegate", *words
    )


def test_raw_delegation_at_the_home_is_checked(embedded: RealServer) -> None:
    """Like that of a client; nothing is stored if it is refused."""
    shards = sharded(embedded, Restrictions({"id": b"7"}), delegate={"depth": 1})
    digest = token_digest(f"kl_agent_{'8' * 32}")
    bad = [
        (("",), "digest"),
        ((digest[:-1], ""), "digest"),
        ((digest, "x"), "ttl"),
        ((digest, "", "bind", "id=8"), "bind"),
        ((digest, "", "allow", "delete"), "allow"),
        ((digest, "", "nothing"), "word"),
        ((digest, "", "budget", "bytes_read=1kb"), "budget"),
    ]
    for words, reason in bad:
        with pytest.raises(redis.ResponseError, match=f"DELEGATION_REFUSED .*reason={reason}"):
            delegated(shards, *words)
    assert not shards.client.exists(HOME.token("agent", digest))
    assert len(delegated(shards, digest, "")) == 2
    with pytest.raises(redis.ResponseError, match="DELEGATION_REFUSED reason=digest"):
        delegated(shards, digest, "")
    without = sharded(embedded, Restrictions({"id": b"7"}))
    with pytest.raises(redis.ResponseError, match="COMMAND_REFUSED mode=delegate"):
        delegated(without, digest, "")


def children(shards: Sharded, count: int) -> list[str]:
    """Return child tokens of the token of *shards*."""
    tokens = [f"kl_agent_{number:032}" for number in range(1, count + 1)]
    for token in tokens:
        delegated(shards, token_digest(token), "")
    return tokens


@pytest.mark.parametrize("cap", ["500", "500/month"])
def test_children_leave_little_of_a_cap_of_their_ancestor_unused(
    embedded: RealServer, cap: str
) -> None:
    """Also if each makes few calls at each shard; the last unit that it wants is granted."""
    shards = sharded(embedded, caps(writes=cap), delegate={"depth": 1, "children": 200})
    passed = 0
    for token in children(shards, 180):
        shards.token = token
        passed += sum(shards.outcome(tag, *SET) == "ran" for tag in TAGS)
    assert shards.outcome("a", *SET).startswith("LEASH BUDGET_EXHAUSTED limit=token.writes by=")

    shards.token = BOUND
    # Delegations count as writes.
    assert counts(shards)[0].count == 500
    assert 500 - 500 // BUDGET_SHARES <= passed + 180 <= 500


def test_large_leases_of_one_child_grow(embedded: RealServer) -> None:
    """Units that it has used are not held any longer, so it needs few round trips."""
    shards = sharded(embedded, caps(writes=10_000), delegate={"depth": 1})
    (shards.token,) = children(shards, 1)

    assert [shards.outcome(tag, *SET) for tag in TAGS for _ in range(400)] == ["ran"] * 1200
    assert shards.homes < 100


@pytest.mark.parametrize("order", [1, -1])
def test_grant_that_a_revocation_made_void_is_charged_once(
    embedded: RealServer, order: int
) -> None:
    """The units of one of both vouchers can be used, whichever comes first."""
    shards = sharded(embedded, caps(writes=400))
    passed = 0
    while not passed or unspent(shards, "writes"):
        passed += shards.outcome("a", *SET) == "ran"
    before = counts(shards)[0].count
    request = shards.request("a", *SET)
    first = shards.grant(request)
    shards.client.hincrby(HOME.leases("agent"), EPOCH_FIELD, 1)
    second = shards.grant(request)

    at = list(CAPS).index("writes")
    amounts = [Voucher.parse(voucher).limits[at].amount for voucher in (first, second)]
    assert counts(shards)[0].count == before + amounts[1]
    for voucher in (first, second)[::order]:
        with contextlib.suppress(redis.ResponseError):
            shards.single("a", voucher, *GET)
    assert unspent(shards, "writes") == amounts[::order][0]
    for tag in TAGS:
        while shards.outcome(tag, *SET) == "ran":
            passed += 1
    assert passed == 400 - (amounts[1] - amounts[::order][0])


def test_any_bytes_in_the_lease_of_a_child_give_a_reply_or_a_denial(embedded: RealServer) -> None:
    """A damaged record may hold anything: no Lua error, and nothing beyond its identity."""
    shards = sharded(embedded, caps(writes=500), delegate={"depth": 2})
    child = f"kl_agent_{'8' * 32}"
    delegated(shards, token_digest(child), "", "bind", "id=7", "budget", "reads=500")
    shards.token = child
    assert shards.outcome("a", *SET) == "ran"
    assert shards.outcome("a", *OTHER) == DENIED
    name = HOME.at_shard("a").token("agent", token_digest(child))
    good = shards.client.get(name)
    assert isinstance(good, bytes)
    own = random.Random(23)
    for _ in range(300):
        record = bytearray(good)
        for place in own.sample(range(RECORD_BYTES, len(good)), own.randrange(1, 4)):
            record[place] = own.randrange(256)
        end = own.choice((len(good), own.randrange(RECORD_BYTES, len(good))))
        shards.client.set(name, bytes(record[:end]), keepttl=True)
        outcome = shards.outcome("a", *own.choice((SET, GET)))
        assert outcome == "ran" or outcome.startswith("LEASH ")
        assert "user_script" not in outcome
        assert shards.outcome("a", "SET", "else", "x").startswith("LEASH ")
