"""Rotation of tokens, and the record of a token's last use."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import keyleash
from guard.test_tokens import age, now_us
from keyleash.audit import token_use
from keyleash.audit.operator_actions import read_control
from keyleash.audit.token_use import count_revoked_denials, with_calls_before
from keyleash.operator.tokens.list import TokenState, list_tokens, require_token
from keyleash.operator.tokens.renew import renew_token
from keyleash.operator.tokens.revoke import RevokedToken, revoke
from keyleash.operator.tokens.rotate import Rotation, rotate_token
from keyleash.store.token import KEEP_AFTER_EXPIRY_MS, TokenRecord, token_digest
from support.errors import raises_code
from support.leash import NAMES, Leash, grant

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="doc:*")]}


def record_of(leash: Leash, token: str) -> TokenRecord:
    return TokenRecord.unpack(leash.admin.get(NAMES.token("one", token_digest(token))))


def ends(rotation: Rotation) -> dict[str, int]:
    return {item.id: item.expires_ms for item in rotation.replaced}


def test_rotated_token_is_good_until_the_grace_is_over(leash: Leash) -> None:
    """The new one at once, the old one for as long as a deploy takes, then TOKEN_EXPIRED."""
    leash.load(one=ALL)
    old = leash.issue("one", note="deploy 7")
    agent = leash.client(old.token)
    before_ms = now_us(leash) // 1000

    done = rotate_token(replace(leash.store, actor="ci"), old.id, grace="10m")

    (replaced,) = done.replaced
    ends_ms = replaced.expires_ms
    assert replaced.id == old.id
    assert before_ms + 600_000 <= ends_ms <= now_us(leash) // 1000 + 600_000
    assert leash.client(done.issued.token).get("doc:1") is None
    assert agent.get("doc:1") is None
    kept_ms = leash.admin.pexpiretime(NAMES.token("one", token_digest(old.token)))
    assert kept_ms == ends_ms + KEEP_AFTER_EXPIRY_MS
    age(leash, "one", old.token, expires_us=now_us(leash) // 1000 * 1000)
    with pytest.raises(keyleash.TokenExpiredError):
        agent.get("doc:1")
    infos = {info.id: info for info in list_tokens(leash.store)}
    assert infos[old.id].replaced_by == done.issued.id
    assert infos[done.issued.id].note == "deploy 7"


def test_rotation_without_a_grace_binds_the_very_next_call(leash: Leash) -> None:
    """As revoking does; but what is answered is that the token expired."""
    leash.load(one=ALL)
    old = leash.issue("one")
    agent = leash.client(old.token)

    for _ in range(50):
        done = rotate_token(leash.store, old.id, grace=timedelta(0))
        with pytest.raises(keyleash.TokenExpiredError):
            agent.get("doc:1")
        old, agent = done.issued, leash.client(done.issued.token)
        assert agent.get("doc:1") is None


def test_rotation_without_a_ttl_keeps_the_life_of_the_issue(leash: Leash) -> None:
    """Of several tokens the longest; that of the policy only if nothing is replaced."""
    leash.load(one={**ALL, "token": {"ttl": "12h", "max_ttl": "1d"}})

    def hours(rotation: Rotation) -> float:
        return round((rotation.issued.expires_ms - now_us(leash) / 1000) / 3_600_000, 1)

    assert hours(rotate_token(leash.store, identity="one")) == 12
    revoke(leash.store, identity="one")
    first, second = (leash.issue("one", ttl=f"{n}h") for n in (1, 2))
    renew_token(leash.store, first.id, ttl="5h")
    assert hours(rotate_token(leash.store, first.id, grace=timedelta(0))) == 1
    assert hours(rotate_token(leash.store, identity="one")) == 2
    assert hours(rotate_token(leash.store, second.id, ttl="3h")) == 3
    leash.load(one={**ALL, "token": {"ttl": "30m", "max_ttl": "30m"}})
    done = rotate_token(leash.store, identity="one")
    assert (hours(done), done.issued.capped) == (0.5, True)


def test_rotation_never_lengthens_a_life(leash: Leash) -> None:
    """Neither beyond the token's own expiry, nor beyond an earlier grace."""
    leash.load(one=ALL)
    short, long = leash.issue("one", ttl="1m"), leash.issue("one")

    first = ends(rotate_token(leash.store, identity="one", grace="1h"))
    assert first[short.id] == short.expires_ms
    assert first[long.id] < long.expires_ms
    again = ends(rotate_token(leash.store, identity="one", grace="2h"))
    assert again[short.id] == first[short.id]
    assert again[long.id] == first[long.id]
    assert len(again) == 3
    assert {info.id: info.expires_ms for info in list_tokens(leash.store)}.items() >= again.items()


def test_rotation_of_an_identity_leaves_dead_tokens_and_others_alone(leash: Leash) -> None:
    """And needs no live token: a deploy after a quiet week gets one, too."""
    leash.load(one=ALL, two=ALL)
    revoked, expired, live = leash.issue("one"), leash.issue("one"), leash.issue("one")
    other = leash.issue("two")
    revoke(leash.store, token_id=revoked.id)
    age(leash, "one", expired.token, expires_us=(now_us(leash) - 1_000_000) // 1000 * 1000)

    assert list(ends(rotate_token(leash.store, identity="one"))) == [live.id]
    assert leash.client(other.token).get("doc:1") is None
    states = {info.id: info.state for info in list_tokens(leash.store)}
    assert (states[revoked.id], states[expired.id]) == (TokenState.REVOKED, TokenState.EXPIRED)
    revoke(leash.store, identity="one")
    done = rotate_token(leash.store, identity="one")
    assert done.replaced == ()
    assert leash.client(done.issued.token).get("doc:1") is None


def test_rotation_resets_no_limit_of_the_identity(leash: Leash) -> None:
    """Only limits per token restart, since it is another token."""
    limits = {"budget": {"requests": "3/day", "writes": {"limit": "1/day", "per": "token"}}}
    leash.load(one={**ALL, **limits})
    old = leash.issue("one")
    leash.client(old.token).set("doc:1", "x")
    leash.client(old.token).get("doc:1")

    agent = leash.client(rotate_token(leash.store, old.id).issued.token)
    assert agent.set("doc:1", "y")
    with pytest.raises(keyleash.BudgetExhaustedError) as refusal:
        agent.get("doc:1")
    assert refusal.value.details["limit"] == "budget.requests"


def test_rotation_of_what_is_not_there_issues_nothing(leash: Leash) -> None:
    """An unknown, expired or revoked token cannot be rotated, and the error gives the reason."""
    with raises_code("no-policy"):
        rotate_token(leash.store, identity="one")
    leash.load(one=ALL)
    revoked, expired = leash.issue("one"), leash.issue("one")
    revoke(leash.store, token_id=revoked.id)
    age(leash, "one", expired.token, expires_us=(now_us(leash) - 1_000_000) // 1000 * 1000)

    with raises_code("unknown-identity"):
        rotate_token(leash.store, identity="two")
    with raises_code("unknown-token-id"):
        rotate_token(leash.store, "nosuchtokenx")
    for dead in (revoked, expired):
        with raises_code("token-not-live", match="nothing was issued"):
            rotate_token(leash.store, dead.id)
    assert len(list_tokens(leash.store)) == 2


def test_rotation_beside_a_spoilt_record_issues_nothing(leash: Leash) -> None:
    """The token of a corrupt record is unknown, so the rotation could not end it."""
    leash.load(one=ALL)
    leash.admin.hset(NAMES.tokens("one"), "x", "no JSON")

    with raises_code("unreadable", match="a token of `one` is corrupt"):
        rotate_token(leash.store, identity="one")
    assert leash.admin.hlen(NAMES.tokens("one")) == 1


def test_rotation_is_on_record_for_either_token(leash: Leash) -> None:
    """Who looks for the old id finds what became of it; the secret is nowhere."""
    leash.load(one=ALL)
    old = leash.issue("one")
    done = rotate_token(replace(leash.store, actor="ci"), old.id)

    issued, rotated = list(read_control(leash.store))[-2:]
    assert (issued.event, issued.actor, issued.details["token"]) == ("issue", "ci", done.issued.id)
    assert (rotated.event, rotated.actor) == ("rotate-token", "ci")
    assert rotated.details == {
        "identity": "one",
        "token": old.id,
        "replaced_by": done.issued.id,
        "expires_ms": str(done.replaced[0].expires_ms),
    }
    assert done.issued.token not in repr(done)


@pytest.mark.parametrize("rules", [{}, {"token": {"ttl": "1h", "idle": "15m"}}])
def test_last_use_is_known_to_a_minute_and_never_is_never(leash: Leash, rules: Any) -> None:
    """Calls in between write nothing: not the first refused one, and not a second use."""
    leash.load(one={**ALL, **rules})
    issued = leash.issue("one")
    agent = leash.client(issued.token)

    with pytest.raises(keyleash.KeyNotGrantedError):
        agent.get("other")
    assert require_token(leash.store, issued.id).used_ms is None
    before_us = now_us(leash) // 1000 * 1000
    agent.get("doc:1")
    used_us = record_of(leash, issued.token).used_us
    assert before_us <= used_us <= now_us(leash)
    assert require_token(leash.store, issued.id).used_ms == used_us // 1000
    if not rules:
        age(leash, "one", issued.token, used_us=used_us - 50_000_000)
        leash.batch("one", issued.token, "each", ("GET", "doc:1"))
        assert record_of(leash, issued.token).used_us == used_us - 50_000_000
    age(leash, "one", issued.token, used_us=used_us - 60_000_000)
    leash.batch("one", issued.token, "each", ("GET", "doc:1"))
    assert record_of(leash, issued.token).used_us >= used_us


def test_idle_token_is_listed_as_expired(leash: Leash) -> None:
    """A token that the guard denies is not listed as live."""
    leash.load(one={**ALL, "token": {"ttl": "1h", "idle": "15m"}})
    issued = leash.issue("one")
    age(leash, "one", issued.token, used_us=now_us(leash) - 15 * 60_000_000 - 2_000_000)

    assert require_token(leash.store, issued.id).state is TokenState.EXPIRED
    assert leash.call("one", issued.token, "GET", "doc:1").startswith("LEASH TOKEN_EXPIRED")


def test_token_is_due_when_rotate_after_is_over_and_not_once_it_was_rotated(leash: Leash) -> None:
    """A revoked token is not due."""
    leash.load(one={**ALL, "token": {"rotate_after": "1h"}}, two=ALL)
    old, other, dead = leash.issue("one"), leash.issue("two"), leash.issue("one")
    revoke(leash.store, token_id=dead.id)
    soon_ms, later_ms = now_us(leash) // 1000 + 3_000_000, now_us(leash) // 1000 + 3_600_000

    def due(at_ms: int) -> set[str]:
        return {info.id for info in list_tokens(leash.store) if info.is_due(at_ms)}

    assert (due(soon_ms), due(later_ms)) == (set(), {old.id})
    new = rotate_token(leash.store, old.id).issued
    assert due(now_us(leash) // 1000 + 3_600_000) == {new.id}
    assert require_token(leash.store, other.id).due_ms is None


def test_uses_are_what_the_trail_has_and_refusals_are_counted_after_a_revocation(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands of batches one by one, reads only where they are recorded, repeats each."""
    leash.load(one=ALL)
    issued, other = leash.issue("one"), leash.issue("one")
    agent = leash.client(issued.token)
    for n in range(3):
        agent.set(f"doc:{{d}}{n}", "x")
    agent.get("doc:{d}1")
    leash.client(other.token).set("doc:{d}1", "y")
    leash.batch("one", issued.token, "each", ("SET", "doc:{d}1", "x"), ("SET", "doc:{d}2", "x"))

    assert token_use.token_use(leash.store, issued.id).recorded_uses == 5
    done = revoke(leash.store, token_id=issued.id)
    assert done.tokens == (RevokedToken("one", issued.id),)
    bound_ms = done.effective_us // 1000
    assert abs(now_us(leash) - done.effective_us) < 60_000_000
    for most, expected in ((6, (5, False)), (5, (4, True))):
        monkeypatch.setattr(token_use, "AT_MOST", most)
        (token,) = with_calls_before(leash.store, done).tokens
        assert (token.calls_before, token.is_partial) == expected
    for _ in range(7):
        with pytest.raises(keyleash.TokenRevokedError):
            agent.get("doc:{d}1")
    assert count_revoked_denials(leash.store, ["one"], bound_ms) == {issued.id: 7}


def test_operator_renews_a_token_and_the_control_stream_has_it(leash: Leash) -> None:
    """The event names actor, token and the new expiry; guards see the renewal at once."""
    leash.load(one={**ALL, "token": {"ttl": "1h", "max_ttl": "4h"}})
    issued = leash.issue("one", ttl="10m")
    renewal = renew_token(leash.store, issued.id, ttl="9h")

    assert renewal.capped
    assert renewal.expires_ms == issued.expires_ms - 600_000 + 4 * 3_600_000
    assert record_of(leash, issued.token).expires_us == renewal.expires_ms * 1000
    key = NAMES.token("one", token_digest(issued.token))
    assert leash.admin.pexpiretime(key) == renewal.expires_ms + KEEP_AFTER_EXPIRY_MS
    *_, action = read_control(leash.store)
    assert (action.event, action.actor) == ("renew", "ops")
    assert action.details == {
        "identity": "one", "token": issued.id, "expires_ms": str(renewal.expires_ms),
    }  # fmt: skip
    assert leash.client(issued.token).whoami().expires_at == renewal.expires_at
    with raises_code("unknown-token-id"):
        renew_token(leash.store, "x")
