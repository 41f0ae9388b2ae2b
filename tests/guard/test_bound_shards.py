"""Bound tokens on shards: vouchers bring the restrictions, and no client can change them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import redis

from keyleash.commands import OperationClass
from keyleash.compiler.leases import RECORD_BYTES
from keyleash.store.leases import Voucher
from keyleash.store.restrictions import Restrictions
from keyleash.store.token import token_digest
from support.leash import grant
from support.servers import RealServer
from support.shards import HOME, NEEDED, Sharded

BODY: dict[str, Any] = {
    "token": {"bound": True},
    "grants": [grant("read", "write", keys=["doc:{id}:*", "shared"])],
}
BOUND = f"kl_agent_{'1' * 32}"
SET = ("SET", "doc:7:a", "x")
OTHER = ("SET", "doc:8:a", "x")
DENIED = "LEASH KEY_NOT_GRANTED key=doc:8:a by=token"


def sharded(server: RealServer, restrictions: Restrictions, **more: Any) -> Sharded:
    """Return shards that are called with a bound token."""
    shards = Sharded(server.client(), **BODY, **more)
    shards.put_token(BOUND, restrictions)
    shards.token = BOUND
    return shards


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
    """A fenced agent may write them: no Lua error, and nothing beyond its identity."""
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
