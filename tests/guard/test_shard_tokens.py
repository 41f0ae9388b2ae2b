"""Limits per token on shards: units of one token are used by that token alone, and once."""

from __future__ import annotations

import contextlib
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from keyleash.store.keyspace import account
from keyleash.store.leases import EPOCH_FIELD, ShardState, unpack_shard
from keyleash.store.scripts import EXPIRE_LEASES
from keyleash.store.token import token_digest
from keyleash.store.wire import BatchMode
from support.leash import grant
from support.servers import RealServer
from support.shards import HOME, NEEDED, Sharded, most_in_a_second

ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="doc:*")]}
SET = ("SET", "doc:a", "x")
TAGS = ("a", "b1", "c2")
TOKENS = tuple(f"kl_agent_{digit * 32}" for digit in "012")


def per_token(limit: Any) -> dict[str, Any]:
    return {**(limit if isinstance(limit, dict) else {"limit": limit}), "per": "token"}


class TokenShards(Sharded):
    """Shards of an agent with limits per token, as one of several tokens sees them."""

    def __init__(self, server: RealServer, budget: Any = "1000/day", **more: Any) -> None:
        self.body = {**ALL, "budget": {"writes": per_token(budget)}, **more}
        super().__init__(server.client(), **self.body)
        for token in TOKENS:
            self.put_token(token)

    def seen_by(self, token: str) -> TokenShards:
        """Return these shards, for calls with another token."""
        other = object.__new__(TokenShards)
        other.__dict__ = {**self.__dict__, "token": token}
        return other

    @property
    def account(self) -> str:
        return account("agent", self.token[-12:])

    @property
    def charged(self) -> int:
        """The units of the budget that the home has charged to the token."""
        counted = self.client.get(
            f"{HOME.limit_prefix('agent', 'budget.writes')}{self.token[-12:]}"
        )
        return int(struct.unpack_from("<d", counted, 8)[0]) if isinstance(counted, bytes) else 0

    @property
    def unspent(self) -> int:
        """The units of the budget that the token has at all shards."""
        states = [self.token_state(tag) for tag in TAGS]
        return sum(state.limits[0].credit for state in states if state and state.limits)

    def token_state(self, tag: str) -> ShardState | None:
        state = self.client.get(self.home.at_shard(tag).state(self.account))
        return unpack_shard(state) if isinstance(state, bytes) else None

    def set_somewhere(self, times: int, seed: int = 0) -> int:
        """Make calls at any shards; return how many ran."""
        own = random.Random(seed)
        outcomes = [self.outcome(own.choice(TAGS), "SET", f"doc:{seed}", "x") for _ in range(times)]
        return outcomes.count("ran")


def denial(shards: Sharded, tag: str, voucher: str = "", words: tuple[str, ...] = SET) -> str:
    with pytest.raises(redis.ResponseError) as error:
        shards.single(tag, voucher, *words)
    return str(error.value)


def expire(shards: Sharded, tag: str, tokens: str = "") -> None:
    """Raise the epoch at the home and at a shard."""
    epoch = int(shards.client.hincrby(HOME.leases("agent"), EPOCH_FIELD, 1))
    words: Any = EXPIRE_LEASES.arguments(HOME.at_shard(tag), "", b"", tokens, "", "agent", epoch)
    shards.client.eval(EXPIRE_LEASES.text, *words)


def test_budget_of_a_token_over_three_shards_and_eight_threads_is_exact(server: RealServer) -> None:
    """Each token gets all of its own units and none of another's."""
    shards = TokenShards(server, "200/day")
    tokens = [shards.seen_by(token) for token in TOKENS[:2]]

    def run(seed: int) -> int:
        return tokens[seed % 2].set_somewhere(75, seed)

    with ThreadPoolExecutor(8) as pool:
        passed = list(pool.map(run, range(8)))

    for place, own in enumerate(tokens):
        assert sum(passed[place::2]) + own.unspent == own.charged == 200
        # At most a fiftieth of the limit is unused.
        assert own.unspent <= 4


def test_limits_of_identity_and_token_hold_together(server: RealServer) -> None:
    """A call takes a unit of each, or none; what one lacks is not lost in the other."""
    shards = TokenShards(server, "60/day", rate={"writes": "100/hour"})
    first, second, third = (shards.seen_by(token) for token in TOKENS)

    passed = [own.set_somewhere(90) for own in (first, second, third)]

    # The rate of the identity ends the second token, and the third one gets nothing.
    assert passed[0] == 60
    assert 0 < passed[1] <= 40
    assert sum(passed) <= 100
    assert second.charged == passed[1] + second.unspent


@pytest.mark.parametrize(
    "limit", ["20/second", {"limit": "20/second", "burst": 10}], ids=["ring", "gcra"]
)
def test_rate_of_a_token_over_three_shards_is_never_exceeded(
    embedded: RealServer, limit: Any
) -> None:
    """Leased units fill their places until they can no longer be used, for each token."""
    shards = Sharded(embedded.client(), **ALL, rate={"writes": per_token(limit)})
    shards.put_token(TOKENS[1])
    have_run: dict[str, list[bool]] = {token: [] for token in TOKENS[:2]}
    while any(sum(calls) < 30 or all(calls) for calls in have_run.values()):
        shards.token = random.choice(TOKENS[:2])
        have_run[shards.token].append(shards.outcome(random.choice(TAGS), *SET) == "ran")

    most = 20 if isinstance(limit, str) else 20 + 10 - 1
    for token, calls in have_run.items():
        assert calls.index(False) >= 1
        assert most_in_a_second(shards.ran_ms(token)) <= most


def test_nothing_that_was_sent_credits_again(embedded: RealServer) -> None:
    """Neither the token that it is for, nor another one."""
    shards = TokenShards(embedded, "40/day")
    for token in TOKENS[:2]:
        shards.seen_by(token).set_somewhere(60)
    before = [(own.charged, own.unspent) for own in map(shards.seen_by, TOKENS)]
    sent = list(shards.sent)
    own = random.Random(3)
    for _ in range(300):
        text = own.choice(sent)
        some = shards.seen_by(own.choice(TOKENS))
        if sent.index(text) % 2:
            outcome = denial(some, text.partition(":")[0], text)
            assert outcome.startswith((NEEDED, "LEASH BUDGET_EXHAUSTED"))
        else:
            with contextlib.suppress(redis.ResponseError):
                some.grant(text)
            del shards.sent[len(sent) :]

    assert [(own.charged, own.unspent) for own in map(shards.seen_by, TOKENS)][:2] == before[:2]
    for token in TOKENS[:2]:
        assert shards.seen_by(token).set_somewhere(12) == before[TOKENS.index(token)][1]


@pytest.mark.parametrize("place", [8, 9, 10, 11, 12])
def test_voucher_with_another_field_of_the_token_is_refused(
    embedded: RealServer, place: int
) -> None:
    """The number of the token's grant and its units are signed like the others."""
    shards = TokenShards(embedded)
    shards.grant(shards.request("a", *SET))
    shards.single("a", shards.sent[-1], "PING")
    voucher = shards.grant(shards.request("a", *SET)).split(":")
    voucher[place] += "7"

    assert denial(shards, "a", ":".join(voucher)) == "LEASH LEASE_REFUSED reason=voucher"
    assert shards.unspent == 0


def test_voucher_of_one_token_gives_another_neither_lease_nor_units(embedded: RealServer) -> None:
    """It names the token by its digest."""
    shards = TokenShards(embedded)
    other = shards.seen_by(TOKENS[1])
    for some in (shards, other):
        assert some.call("a", *SET) == b"OK"
    while shards.unspent:
        shards.call("a", *SET)
    voucher = shards.grant(shards.request("a", *SET))
    units = other.unspent

    assert other.single("a", voucher, *SET) == b"OK"

    assert (other.unspent, shards.unspent) == (units - 1, 0)
    assert shards.single("a", voucher, *SET) == b"OK"


def test_token_without_a_lease_leaves_no_record(embedded: RealServer) -> None:
    """A caller cannot fill the memory by tokens that it makes up."""
    shards = TokenShards(embedded)
    made_up = shards.seen_by(f"kl_agent_{'7' * 32}")
    made_up.request("a", *SET)

    assert made_up.outcome("a", *SET) == "LEASH TOKEN_UNKNOWN"
    assert made_up.token_state("a") is None
    assert not shards.client.exists(HOME.leases(made_up.account))


def test_records_of_a_token_end(embedded: RealServer) -> None:
    """Those of a shard with the last unit, and those of the home with the token."""
    shards = TokenShards(embedded, "1000/minute")
    shards.call("a", *SET)

    assert 0 < shards.client.pttl(HOME.at_shard("a").state(shards.account)) <= 120_000
    record = HOME.token("agent", token_digest(shards.token))
    ends = shards.client.pexpiretime(HOME.leases(shards.account))
    assert ends == shards.client.pexpiretime(record)


def test_state_that_begins_again_drops_the_units_of_all_tokens(embedded: RealServer) -> None:
    """A reset of limits, a lost state and a clock that went back all give it another birth."""
    shards = TokenShards(embedded, "100/day")
    tokens = [shards.seen_by(token) for token in TOKENS[:2]]
    for own in tokens:
        assert own.set_somewhere(12) == 12
    sent = [text for text in shards.sent if text.startswith("a:")]

    expire(shards, "a", tokens="1")

    for own in tokens:
        own.call("a", "PING")
        for voucher in sent[1::2]:
            assert denial(own, "a", voucher).startswith(NEEDED)
        state = own.token_state("a")
        assert state is not None
        assert not any(limit.credit for limit in state.limits)


def test_epoch_leaves_the_units_of_a_token(embedded: RealServer) -> None:
    """A revocation of another token ends leases, not units."""
    shards = TokenShards(embedded)
    shards.set_somewhere(12)
    before = shards.charged, shards.unspent

    expire(shards, "a")
    shards.call("a", "PING")

    assert (shards.charged, shards.unspent) == before


def test_batch_of_a_token_runs_as_far_as_its_budget_goes(embedded: RealServer) -> None:
    """The home grants the rest to a batch that can use a part, and the others are denied."""
    shards = TokenShards(embedded, "10/day")
    commands = [("SET", f"doc:{number}", "x") for number in range(16)]

    replies = shards.leased(shards.batch, "a", BatchMode.EACH, *commands)

    assert replies[:10] == [b"OK"] * 10
    assert all("BUDGET_EXHAUSTED" in str(reply) for reply in replies[10:])


def test_lowered_budget_of_a_token_drops_its_units(embedded: RealServer) -> None:
    """Units of another set of limits are not used."""
    shards = TokenShards(embedded)
    for _ in range(13):
        shards.call("a", *SET)
    assert shards.unspent > 0
    shards.activate(**ALL, budget={"writes": per_token("14/day")})

    outcomes = [shards.outcome("a", *SET) for _ in range(5)]

    # What was leased before stays charged.
    assert outcomes.count("ran") <= 1


def test_any_bytes_in_the_units_of_a_token_give_a_reply_or_a_denial(embedded: RealServer) -> None:
    """A damaged record may hold anything: no Lua error, and no other identity's rights."""
    shards = TokenShards(embedded, rate={"reads": per_token("20/second")})
    shards.call("a", *SET)
    name = HOME.at_shard("a").state(shards.account)
    good = shards.client.get(name)
    assert isinstance(good, bytes)
    odd = (float("nan"), float("inf"), -float("inf"), -1.0, 0.5, 2.0**60, 0.0)
    own = random.Random(20)
    for _ in range(300):
        state = bytearray(good)
        for place in own.sample(range(len(good) // 8), own.randrange(4)):
            struct.pack_into("<d", state, 8 * place, own.choice(odd))
        shards.client.set(name, bytes(state[: own.choice((len(state), own.randrange(len(state))))]))
        outcome = shards.outcome("a", own.choice(("SET", "GETSET")), "doc:a", "x")
        assert outcome == "ran" or outcome.startswith("LEASH ")
