"""Renewal: a token lives longer, never beyond the policy's `max_ttl` after its issue."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

import keyleash
from keyleash.audit.operator_actions import read_control
from keyleash.audit.read import EVERYTHING, read_denials, read_events
from keyleash.errors.sentences import reason_of
from keyleash.operator.tokens.list import list_tokens
from keyleash.operator.tokens.renew import renew_token
from keyleash.operator.tokens.revoke import revoke
from keyleash.operator.tokens.rotate import rotate_token
from keyleash.store.token import KEEP_AFTER_EXPIRY_MS, TokenRecord
from support.clustered import NODES
from support.errors import raises_code
from support.leash import NAMES, Leash, grant
from support.renewal import HOUR_MS, pass_time, record_of

RUNNER: dict[str, Any] = {
    "token": {"ttl": "1h", "max_ttl": "4h", "renew": True},
    "grants": [grant("read", "write", keys="doc:*")],
}


def renew(leash: Leash, token: str, *words: str, identity: str = "one") -> Any:
    """The reply of a raw call."""
    digest = leash.record(identity).batch_digest
    return leash.raw(
        identity, [], token, "", "renew", *(words or ("2", "RENEW", "")), digest=digest
    )


def test_renewed_token_lives_as_long_from_now_as_it_was_issued_for(leash: Leash) -> None:
    """Expiry, life of the record and the clock of guards move together; it is an event."""
    leash.load(one=RUNNER)
    issued = leash.issue("one", ttl="2h")
    agent = leash.client(issued.token)
    pass_time(leash, issued.token, 1)

    renewal = agent.renew()

    record, gone_ms = record_of(leash, issued.token)
    assert renewal.id == issued.id
    assert not renewal.capped
    assert 0 <= renewal.expires_ms - issued.expires_ms < 60_000
    assert record.expires_us == renewal.expires_ms * 1000
    assert gone_ms == renewal.expires_ms + KEEP_AFTER_EXPIRY_MS
    found = agent.whoami()
    assert found.expires_at == renewal.expires_at
    assert found.renewable_until is not None
    left = found.renewable_until - renewal.expires_at
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert agent.set("doc:1", "x")
    events = [(event.op, event.token) for event in read_events(leash.store, ["one"], EVERYTHING)]
    assert events == [("RENEW", issued.id), ("SET", issued.id)]


def test_renewal_ends_at_max_ttl_and_is_then_refused(leash: Leash) -> None:
    """A longer wish is shortened to the latest time, to the millisecond; then nothing is left."""
    leash.load(one=RUNNER)
    issued = leash.issue("one")
    agent = leash.client(issued.token)
    pass_time(leash, issued.token, 0.5)
    latest_ms = issued.expires_ms - HOUR_MS // 2 + 3 * HOUR_MS

    renewal = agent.renew("4h")

    assert (renewal.expires_ms, renewal.capped) == (latest_ms, True)
    # What is asked for is there.
    assert agent.renew("1h").expires_ms == latest_ms
    with pytest.raises(keyleash.RenewalRefusedError) as refusal:
        agent.renew("4h")
    assert refusal.value.reason == "max_ttl"
    with raises_code("token-too-old"):
        renew_token(leash.store, issued.id, ttl="4h")
    assert record_of(leash, issued.token)[0].expires_us == latest_ms * 1000


def test_renewal_never_shortens_a_life(leash: Leash) -> None:
    """A shorter wish changes nothing, and is no event."""
    leash.load(one=RUNNER)
    issued = leash.issue("one")
    agent = leash.client(issued.token)

    assert agent.renew("1s").expires_ms == issued.expires_ms
    before = record_of(leash, issued.token)
    assert agent.renew("2s").expires_ms == issued.expires_ms
    assert record_of(leash, issued.token) == before
    assert renew_token(leash.store, issued.id, ttl="1s").expires_ms == issued.expires_ms
    assert list(read_events(leash.store, ["one"], EVERYTHING)) == []
    assert [action.event for action in read_control(leash.store)] == ["activate", "issue"]


def test_revoked_expired_and_replaced_tokens_are_not_renewed(leash: Leash) -> None:
    """Neither by agents nor by operators, also within the grace of a rotation."""
    leash.load(one=RUNNER)
    revoked, expired, replaced = (leash.issue("one") for _ in range(3))
    rotation = rotate_token(leash.store, replaced.id)
    revoke(leash.store, token_id=revoked.id)
    pass_time(leash, expired.token, 1)
    for token, code, error in (
        (revoked, "TOKEN_REVOKED", "token-not-live"),
        (expired, "TOKEN_EXPIRED", "token-not-live"),
        (replaced, "RENEWAL_REFUSED reason=replaced", "token-replaced"),
    ):
        before = record_of(leash, token.token)
        assert str(renew(leash, token.token)).startswith(f"LEASH {code}")
        with raises_code(error):
            renew_token(leash.store, token.id)
        assert record_of(leash, token.token) == before
    assert leash.client(replaced.token).get("doc:1") is None
    pass_time(leash, rotation.issued.token, 0.5)
    assert (
        leash.client(rotation.issued.token).renew().expires_ms > rotation.issued.expires_ms - 60_000
    )


def test_without_permission_the_mode_is_refused_and_the_script_is_the_same(leash: Leash) -> None:
    """Only scripts of identities with `renew` have the mode; operators need no permission."""
    plain = {**RUNNER, "token": {"ttl": "1h", "max_ttl": "4h"}}
    leash.load(one=plain)
    issued = leash.issue("one")
    pass_time(leash, issued.token, 0.5)

    assert renew(leash, issued.token) == "LEASH COMMAND_REFUSED mode=renew"
    with pytest.raises(keyleash.CommandRefusedError, match="does not let agents renew") as denial:
        leash.client(issued.token).renew()
    assert "token: {renew: true}" in reason_of(denial.value).operator
    with pytest.raises(keyleash.CommandRefusedError, match="does not let tokens delegate"):
        leash.client(issued.token).delegate()
    found = {(item.op, item.reason, item.repeats) for item in read_denials(leash.store, ["one"])}
    assert found == {("RENEW", "renew", 2), ("DELEGATE", "delegate", 1)}
    assert b"renew" not in leash.admin.hgetall(NAMES.guard("one"))
    assert renew_token(leash.store, issued.id).expires_ms > issued.expires_ms - 60_000
    assert leash.client(issued.token).get("doc:1") is None


@pytest.mark.parametrize(
    "words",
    [
        ("2", "RENEW", "x"),
        ("2", "RENEW", "-1"),
        ("2", "RENEW", "1e3"),
        ("2", "RENEW", "0x10"),
        ("2", "RENEW", "9" * 11),
        ("3", "RENEW", "1", "2"),
        ("1", "RENEW"),
        ("2", "GET", "60"),
        ("2", "RENEW", "60", "2", "RENEW", "70"),
        ("2", "RENEW", "60", "x"),
        ("2*2", "RENEW", "60"),
    ],
)
def test_malformed_renewal_is_denied(leash: Leash, words: tuple[str, ...]) -> None:
    """Whatever a raw call has in this mode, it is a denial, and nothing changes."""
    leash.load(one=RUNNER)
    issued = leash.issue("one")
    pass_time(leash, issued.token, 0.5)
    before = record_of(leash, issued.token)

    assert str(renew(leash, issued.token, *words)).startswith("LEASH COMMAND_REFUSED ")
    assert record_of(leash, issued.token) == before


def test_renewal_without_an_item_changes_nothing(leash: Leash) -> None:
    """An empty batch in this mode is empty, or a run over keys is denied."""
    leash.load(one=RUNNER)
    issued = leash.issue("one")
    pass_time(leash, issued.token, 0.5)
    before = record_of(leash, issued.token)
    digest = leash.record("one").batch_digest

    empty = leash.raw("one", [], issued.token, "", "renew", digest=digest)
    run = leash.raw(
        "one", ["60", "60"], issued.token, "", "renew", "2*2", "RENEW", "1", digest=digest
    )
    keys = leash.raw("one", ["doc:1"], issued.token, "", "renew", "2", "RENEW", "", digest=digest)

    assert str(empty).startswith("LEASH COMMAND_REFUSED ")
    assert str(run).startswith("LEASH COMMAND_REFUSED ")
    # At a node of a cluster there is no such mode, and the home takes no keys.
    denial = "COMMAND_REFUSED mode=renew" if NODES else "KEYS_MISMATCH"
    assert str(keys).startswith(f"LEASH {denial}")
    assert record_of(leash, issued.token) == before


def test_renewal_is_charged_as_a_write(leash: Leash) -> None:
    """An agent that renews in a loop fills its audit stream no faster than by writing."""
    limits = {
        "rate": {"writes": {"limit": "2/hour", "per": "token"}},
        "budget": {"writes": "3/day"},
    }
    leash.load(
        one={
            **RUNNER,
            **limits,
            "token": {"ttl": "1h", "max_ttl": "4h", "renew": True, "bound": True},
        }
    )
    first = leash.client(leash.issue("one").token)
    capped = leash.client(leash.issue("one", budget={"writes": 1}).token)

    first.renew("61m")
    first.set("doc:1", "x")
    with pytest.raises(keyleash.RateLimitedError):
        first.renew("62m")
    capped.renew("61m")
    with pytest.raises(keyleash.BudgetExhaustedError) as denial:
        capped.renew("62m")
    assert denial.value.details["limit"] == "budget.writes"
    left = {limit.name: limit.left for limit in capped.whoami().limits}
    assert left == {"rate.writes": 1, "budget.writes": 0, "token.writes": 0}


def test_renewed_bound_token_keeps_its_restrictions_and_what_its_caps_counted(leash: Leash) -> None:
    """A cap for the life of the token holds for the longer life."""
    leash.load(
        one={**RUNNER, "token": {"ttl": "1h", "max_ttl": "4h", "renew": True, "bound": True}}
    )
    issued = leash.issue("one", keys=["doc:a*"], budget={"requests": 4})
    agent = leash.client(issued.token)
    agent.set("doc:a", "x")
    agent.renew("2h")
    renew_token(leash.store, issued.id, ttl="3h")

    with pytest.raises(keyleash.KeyNotGrantedError):
        agent.get("doc:b")
    agent.get("doc:a")
    agent.get("doc:a")
    with pytest.raises(keyleash.BudgetExhaustedError):
        agent.get("doc:a")
    (info,) = list_tokens(leash.store, "one")
    assert info.restrictions is not None
    assert [count.left(0) for count in info.restrictions.counts] == [0]


def test_renewal_by_the_agent_is_a_use_and_by_an_operator_is_none(leash: Leash) -> None:
    """An idle timeout runs on while operators renew a token without any use."""
    leash.load(one={**RUNNER, "token": {**RUNNER["token"], "idle": "30m"}})
    issued = leash.issue("one")
    before = record_of(leash, issued.token)[0].used_us

    renew_token(leash.store, issued.id, ttl="2h")
    assert record_of(leash, issued.token)[0].used_us == before
    leash.client(issued.token).renew("3h")
    assert record_of(leash, issued.token)[0].used_us > before
    record, _ = record_of(leash, issued.token)
    leash.put_token(
        "one",
        issued.token,
        TokenRecord(record.id, record.expires_us, record.used_us - 1_802_000_000),
    )
    assert str(renew(leash, issued.token)).startswith("LEASH TOKEN_EXPIRED idle_since_ms=")
    with raises_code("token-not-live"):
        renew_token(leash.store, issued.id)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "{",
        "7",
        "{}",
        '{"issued_ms": "1", "expires_ms": 2}',
        '{"issued_ms": 1, "expires_ms": "x"}',
        '{"issued_ms": 1}',
        '{"issued_ms": 1e999, "expires_ms": 2}',
        '{"issued_ms": 9e99, "expires_ms": 1}',
        "[1]",
    ],
)
def test_corrupt_entry_is_a_denial(leash: Leash, entry: str) -> None:
    """Without the time of the issue nothing is renewed."""
    leash.load(one=RUNNER)
    issued = leash.issue("one")
    agent = leash.client(issued.token)
    leash.admin.hset(NAMES.tokens("one"), issued.id, entry)

    assert (
        renew(leash, issued.token, "2", "RENEW", "7200") == "LEASH RENEWAL_REFUSED reason=unknown"
    )
    agent.get("doc:1")
    leash.admin.hdel(NAMES.tokens("one"), issued.id)
    assert (
        renew(leash, issued.token, "2", "RENEW", "7200") == "LEASH RENEWAL_REFUSED reason=unknown"
    )


def test_forged_time_of_issue_gives_no_more_than_max_ttl_from_now(leash: Leash) -> None:
    """A time of issue that is to come counts as now."""
    leash.load(one=RUNNER)
    issued = leash.issue("one")
    far = {"issued_ms": 9e15 / 1000, "expires_ms": 9e15, "digest": "x"}
    leash.admin.hset(NAMES.tokens("one"), issued.id, json.dumps(far))
    now_ms = leash.store.now_us() // 1000

    renewal = leash.client(issued.token).renew("9h")

    assert 0 <= renewal.expires_ms - now_ms - 4 * HOUR_MS < 60_000


def test_renewal_by_the_smaller_max_ttl_of_a_later_policy(leash: Leash) -> None:
    """The active policy decides, so a token of an earlier one is not renewed beyond it."""
    leash.load(one=RUNNER)
    issued = leash.issue("one")
    agent = leash.client(issued.token)
    pass_time(leash, issued.token, 0.5)
    leash.load(one={**RUNNER, "token": {"ttl": "10m", "max_ttl": "50m", "renew": True}})

    with pytest.raises(keyleash.RenewalRefusedError):
        agent.renew()
    assert agent.get("doc:1") is None


def test_child_is_not_renewed_and_its_parent_lives_longer_with_its_number_of_children(
    leash: Leash,
) -> None:
    """A child never outlives its parent; the set that counts the children lives on as well."""
    token = {"ttl": "1h", "max_ttl": "4h", "renew": True, "bound": True}
    leash.load(one={**RUNNER, "token": token, "delegate": {"depth": 1, "children": 1}})
    issued = leash.issue("one")
    parent = leash.client(issued.token)
    child = parent.delegate(ttl="10m")

    key = NAMES.children_prefix("one") + issued.id
    assert parent.renew("2h").expires_ms == leash.admin.pexpiretime(key)
    renewed = renew_token(leash.store, issued.id, ttl="3h")
    assert leash.admin.pexpiretime(key) == renewed.expires_ms
    with pytest.raises(keyleash.RenewalRefusedError) as denial:
        leash.client(child.token).renew()
    assert denial.value.reason == "delegated"
    with raises_code("token-delegated"):
        renew_token(leash.store, child.id)
    assert leash.client(child.token).set("doc:1", "x")
    with pytest.raises(keyleash.DelegationRefusedError):
        parent.delegate()
