"""`on_denials`: an identity that is refused again and again suspends itself."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

import keyleash
from guard.test_suspension import now_us, suspended, write_suspended
from guard.test_tokens import age
from keyleash.audit.read import read_denials
from keyleash.errors import LeashError
from keyleash.operator.suspension import freeze, thaw
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.leases import unpack_shard
from support.clustered import NODES
from support.distress import full_memory
from support.leash import NAMES, Leash, grant
from support.streams import count_entries

BREAKER = {"on_denials": {"threshold": "5/minute", "suspend": "10m"}}
ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="doc:*")]}
REASON = "on_denials: 5/minute"


def be_refused(call: Callable[[], object], times: int) -> list[str]:
    codes = []
    for _ in range(times):
        with pytest.raises(LeashError) as refusal:
            call()
        codes.append(refusal.value.code.value)
    return codes


def suspended_at(leash: Leash) -> int:
    """Return the suspension at the node of `{kl}`, which breakers write; see `suspended`."""
    if not NODES:
        return suspended(leash, "one")
    return unpack_shard(leash.admin.get(leash.names_at("{kl}").state("one"))).suspended


def test_agent_in_a_refusal_loop_suspends_itself(leash: Leash) -> None:
    """Exactly at the threshold, for exactly so long, whatever the refusals were about."""
    leash.load(one={**ALL, **BREAKER}, two=ALL)
    token, two = leash.issue("one").token, leash.agent("two")
    agent = leash.client(token)

    assert be_refused(lambda: agent.get("{kl}other"), 3) == ["KEY_NOT_GRANTED"] * 3
    assert leash.call("one", token, "FLUSHALL") == "LEASH COMMAND_REFUSED command=FLUSHALL"
    assert agent.get("doc:{kl}1") is None
    before_us = now_us(leash) // 1000 * 1000
    assert be_refused(lambda: agent.delete("doc:{kl}1"), 1) == ["CLASS_NOT_GRANTED"]

    with pytest.raises(keyleash.SuspendedError) as refusal:
        agent.get("doc:{kl}1")
    assert refusal.value.reason == REASON
    until_us = suspended_at(leash)
    assert before_us <= until_us - 600_000_000 <= now_us(leash)
    assert refusal.value.until_ms == -(-until_us // 1000)
    assert be_refused(lambda: two.get("{kl}other"), 9) == ["KEY_NOT_GRANTED"] * 9
    write_suspended(leash, "one", now_us(leash) - 1_000, leash.names_at("{kl}"))
    assert agent.get("doc:{kl}1") is None
    assert be_refused(lambda: agent.get("{kl}other"), 4) == ["KEY_NOT_GRANTED"] * 4
    assert agent.get("doc:{kl}1") is None


def test_breaker_is_off_unless_the_policy_has_one(leash: Leash) -> None:
    """And an identity can be left out of the default."""
    leash.load(
        '{"version": 1, "defaults": {"on_denials": {"threshold": "1/day", "suspend": "1h"}},'
        '"identities": {"one": {"kind": "machine", "grants": [{"allow": ["read"], "keys": ["a"]}]},'
        '"off": {"kind": "machine", "on_denials": "off",'
        ' "grants": [{"allow": ["read"], "keys": ["a"]}]}}}'
    )
    limited, off = leash.agent("one"), leash.agent("off")

    assert be_refused(lambda: limited.get("b"), 2) == ["KEY_NOT_GRANTED", "SUSPENDED"]
    assert be_refused(lambda: off.get("b"), 3) == ["KEY_NOT_GRANTED"] * 3
    assert leash.admin.exists(NAMES.refused("off")) == 0


def test_refusals_before_the_token_is_accepted_do_not_count(leash: Leash) -> None:
    """A caller without a live token cannot suspend an agent."""
    leash.load(one={**ALL, **BREAKER})
    agent = leash.agent("one")
    revoked, expired = leash.issue("one"), leash.issue("one")
    revoke(leash.store, token_id=revoked.id)
    age(leash, "one", expired.token, expires_us=now_us(leash) // 1000 * 1000)

    strangers = {"x": "UNKNOWN", revoked.token: "REVOKED", expired.token: "EXPIRED"}
    for token, code in strangers.items():
        for _ in range(10):
            assert leash.call("one", token, "GET", "other").startswith(f"LEASH TOKEN_{code}")
            refused = leash.batch("one", token, "each", ("GET", "other"))
            assert refused.startswith(f"LEASH TOKEN_{code}")
    assert agent.get("doc:1") is None
    assert leash.admin.exists(NAMES.refused("one")) == 0


def test_refused_commands_of_a_batch_count_one_by_one(leash: Leash) -> None:
    """Each, where each has its own answer; once, where one refuses the whole."""
    leash.load(one={**ALL, **BREAKER})
    token = leash.issue("one").token
    bad, good = ("GET", "{d}other"), ("SET", "doc:{d}1", "x")

    for _ in range(2):
        refusal = leash.batch("one", token, "all", bad, bad, bad)
        assert refusal.startswith("LEASH KEY_NOT_GRANTED")
    replies = leash.batch("one", token, "each", bad, good, bad, bad, good)
    # The batch began before the threshold was reached, and is judged to its end.
    assert [str(reply)[:9] for reply in replies] == ["LEASH KEY", "b'OK'"[:9]] + [
        "LEASH KEY"
    ] * 2 + ["b'OK'"]
    assert leash.call("one", token, *good).startswith("LEASH SUSPENDED reason=on_denials")


def test_batch_suspends_its_identity_once(leash: Leash) -> None:
    """However many denials it has: each time would be an entry in the stream of denials."""
    leash.load(one={**ALL, **BREAKER})
    token = leash.issue("one").token

    leash.batch("one", token, "each", *[("GET", "other")] * 500)

    found = list(read_denials(leash.store, ["one"]))
    assert sum(item.until_ms is not None for item in found) == 1
    assert leash.refusals("one") == 500


def test_threshold_is_of_any_stretch_of_the_period(leash: Leash) -> None:
    """Refusals that are older than the period do not count, and the newest are known exactly."""
    leash.load(one={**ALL, **BREAKER})
    agent = leash.agent("one")
    old = struct.pack("<d", now_us(leash) - 61_000_000)
    leash.admin.rpush(NAMES.refused("one"), old, old, old, old)

    assert be_refused(lambda: agent.get("{d}other"), 5) == ["KEY_NOT_GRANTED"] * 5
    assert be_refused(lambda: agent.get("doc:{d}1"), 1) == ["SUSPENDED"]


def test_another_threshold_holds_from_the_next_refusal_on(leash: Leash) -> None:
    """A longer list than is needed any more is cut, and what it says counts."""
    leash.load(one={**ALL, "on_denials": {"threshold": "50/minute", "suspend": "10m"}})
    agent = leash.agent("one")
    be_refused(lambda: agent.get("other"), 20)
    leash.load(one={**ALL, **BREAKER})

    assert be_refused(lambda: agent.get("other"), 2) == ["KEY_NOT_GRANTED", "SUSPENDED"]


def test_suspending_itself_is_on_record_and_is_no_refusal(leash: Leash) -> None:
    """The event has token, call, reason and end, and takes no sequence number of a call."""
    leash.load(one={**ALL, **BREAKER})
    issued = leash.issue("one")
    agent = leash.client(issued.token)
    be_refused(lambda: agent.get("{kl}other"), 5)

    *_, tripped = read_denials(leash.store, ["one"])
    assert (tripped.code, tripped.reason, tripped.token) == ("SUSPENDED", REASON, issued.id)
    assert (tripped.op, tripped.repeats) == ("GET", 0)
    assert tripped.until_ms == -(-suspended_at(leash) // 1000)
    assert leash.refusals("one") == 5
    assert (
        sum(
            identity.denied
            for identity in count_entries(read_denials(leash.store, ["one"])).identities.values()
        )
        == 5
    )
    record = leash.admin.hgetall(leash.names_at("{kl}").suspension("one"))
    assert (record[b"by"], record[b"reason"]) == (b"itself", REASON.encode())


def test_thaw_lets_it_act_and_forgets_what_was_counted(leash: Leash) -> None:
    """Otherwise the next refusal would stop it again."""
    leash.load(one={**ALL, **BREAKER})
    agent = leash.agent("one")
    be_refused(lambda: agent.get("other"), 4)
    assert not thaw(leash.store, "one").identities[0].changed
    assert be_refused(lambda: agent.get("other"), 5) == ["KEY_NOT_GRANTED"] * 5
    assert thaw(leash.store, "one").identities[0].changed
    assert agent.get("doc:1") is None
    assert be_refused(lambda: agent.get("other"), 4) == ["KEY_NOT_GRANTED"] * 4


def test_freeze_outlasts_what_an_identity_did_to_itself(leash: Leash) -> None:
    """An operator may lengthen it; a shorter freeze changes nothing."""
    leash.load(one={**ALL, **BREAKER})
    agent = leash.agent("one")
    be_refused(lambda: agent.get("other"), 5)

    assert freeze(leash.store, "one", reason="look", duration="60s").identities[0].reason == REASON
    assert freeze(leash.store, "one", reason="look").identities[0].changed
    with pytest.raises(keyleash.SuspendedError) as refusal:
        agent.get("doc:1")
    assert (refusal.value.reason, refusal.value.until_ms) == ("look", None)


def test_full_memory_leaves_refusals_as_they_are(leash: Leash) -> None:
    """Denials are not counted then, and still deny."""
    leash.load(one={**ALL, **BREAKER})
    token = leash.issue("one").token
    # On a cluster, the first call needs a lease.
    leash.call("one", token, "GET", "doc:{d}1")

    with full_memory(leash.server):
        for _ in range(9):
            denial = leash.call("one", token, "GET", "{d}other")
            assert denial == "LEASH KEY_NOT_GRANTED key=%7Bd%7Dother"
