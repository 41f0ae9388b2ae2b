"""Tokens: distinct, hashed, short-lived, and invalid once revoked."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import redis

import keyleash
from keyleash.operator.tokens.issue import issue_tokens
from keyleash.operator.tokens.list import TokenState, list_tokens
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.records import read_active
from keyleash.store.token import TokenRecord, token_digest
from support.errors import raises_code
from support.leash import NAMES, Leash, grant

READ: dict[str, Any] = {"grants": [grant("read", keys="doc:*")]}


def age(leash: Leash, identity: str, token: str, **changes: int) -> None:
    """Rewrite times in a token's record, as if they had come."""
    name = NAMES.token(identity, token_digest(token))
    record = TokenRecord.unpack(leash.admin.get(name))
    fields: dict[str, Any] = {"expires_us": record.expires_us, "used_us": record.used_us} | changes
    aged = TokenRecord(record.id, revoked=record.revoked, **fields)
    leash.put_token(identity, token, aged)
    leash.end_leases()


def now_us(leash: Leash) -> int:
    seconds, micros = leash.admin.time()
    return int(seconds) * 1_000_000 + int(micros)


def test_live_token_works_until_the_instant_it_expires(leash: Leash) -> None:
    """Expiry is the server's time, and the refusal says when it was."""
    leash.load(one=READ)
    issued = leash.issue("one", ttl="1h")
    agent = leash.client(issued.token)

    assert agent.get("doc:1") is None
    past = now_us(leash) // 1000 * 1000
    age(leash, "one", issued.token, expires_us=past)
    with pytest.raises(keyleash.TokenExpiredError) as refusal:
        agent.get("doc:1")
    assert refusal.value.details == {"expired_at_ms": str(past // 1000)}


def test_token_with_a_life_of_one_second_expires_by_itself(leash: Leash) -> None:
    """No sweep, no daemon: the next call after the second is refused."""
    leash.load(one=READ)
    agent = leash.client((issued := leash.issue("one", ttl="1s")).token)

    while now_us(leash) < issued.expires_ms * 1000 + 1000:
        time.sleep(0.01)
    with pytest.raises(keyleash.TokenExpiredError):
        agent.get("doc:1")


def test_expired_token_can_still_say_so_for_a_week(leash: Leash) -> None:
    """Its record outlives it, then goes by itself."""
    leash.load(one=READ)
    issued = leash.issue("one")

    kept_ms = leash.admin.pexpiretime(NAMES.token("one", token_digest(issued.token)))
    assert kept_ms == issued.expires_ms + 7 * 86_400_000


def test_revoke_binds_the_very_next_call(leash: Leash) -> None:
    """A revoked token has its own denial code, and keeps it."""
    leash.load(one=READ)
    issued, other = leash.issue("one"), leash.issue("one")
    agent = leash.client(issued.token)

    assert agent.get("doc:1") is None
    revoked = revoke(leash.store, token_id=issued.id)
    assert [(item.identity, item.id) for item in revoked.tokens] == [("one", issued.id)]
    with pytest.raises(keyleash.TokenRevokedError):
        agent.get("doc:1")
    assert leash.client(other.token).get("doc:1") is None
    assert revoke(leash.store, token_id=issued.id).tokens == ()


def test_revoke_of_an_identity_or_of_all_reaches_every_token(leash: Leash) -> None:
    """One call revokes all tokens of an incident."""
    leash.load(one=READ, two=READ)
    ones, twos = [leash.agent("one"), leash.agent("one")], [leash.agent("two")]

    assert len(revoke(leash.store, identity="one").tokens) == 2
    for agent in ones:
        with pytest.raises(keyleash.TokenRevokedError):
            agent.get("doc:1")
    assert twos[0].get("doc:1") is None
    assert revoke(leash.store, all=True).identities == ("two",)
    with pytest.raises(keyleash.TokenRevokedError):
        twos[0].get("doc:1")


def test_revoke_of_an_unknown_id_says_so(leash: Leash) -> None:
    """A typo must not look like success."""
    leash.load(one=READ)

    with raises_code("unknown-token-id", match="`nosuchid`"):
        revoke(leash.store, token_id="nosuchid")


def test_revoke_of_an_empty_name_is_not_of_all(leash: Leash) -> None:
    """None means all; an empty text is a mistake."""
    leash.load(one=READ)
    issued = leash.issue("one")

    with raises_code("unknown-token-id"):
        revoke(leash.store, token_id="")
    with raises_code("unknown-identity"):
        revoke(leash.store, identity="")
    assert leash.client(issued.token).get("doc:1") is None


def test_token_of_another_identity_is_unknown(leash: Leash) -> None:
    """Both by its own name at the other's guard, and with the name changed."""
    leash.load(one=READ, two=READ)
    token = leash.issue("one").token

    assert leash.call("two", token, "GET", "doc:1") == "LEASH TOKEN_UNKNOWN"
    with pytest.raises(keyleash.TokenUnknownError):
        leash.client(token.replace("kl_one_", "kl_two_")).get("doc:1")


@pytest.mark.parametrize("length", [0, 1, 20, 38])
def test_truncated_token_is_unknown_to_the_guard(leash: Leash, length: int) -> None:
    """Every prefix of a token is as good as none."""
    leash.load(one=READ)
    token = leash.issue("one").token

    assert leash.call("one", token[:length], "GET", "doc:1") == "LEASH TOKEN_UNKNOWN"


def test_token_of_a_megabyte_is_unknown_to_the_guard(leash: Leash) -> None:
    """It is not even hashed."""
    leash.load(one=READ)
    token = leash.issue("one").token

    assert leash.call("one", token + "x" * 1_000_000, "GET", "doc:1") == "LEASH TOKEN_UNKNOWN"


@pytest.mark.parametrize(
    "token", ["", "kl_", "kl_one_", "one", "kl_ONE_x", "kl_one_" + "x" * 10**6]
)
def test_token_without_the_shape_of_one_is_unknown_to_the_wrapper(token: str) -> None:
    """It names no identity, so there is no guard to ask; the error does not repeat it."""
    with pytest.raises(keyleash.TokenUnknownError) as refusal:
        keyleash.Redis(token=token)
    # The help is always the same; `one` is a word of it.
    assert token == "" or token not in refusal.value.message


def test_only_the_hash_of_a_token_is_stored(leash: Leash) -> None:
    """Nothing in Redis, nor in any repr, gives the secret back."""
    leash.load(one=READ)
    issued = leash.issue("one", note="deploy 7")
    agent = leash.client(issued.token)
    agent.get("doc:1")
    secret = issued.token.removeprefix("kl_one_")

    for name in leash.admin.scan_iter():
        assert secret.encode() not in name
        assert secret.encode() not in leash.admin.dump(name)
    assert secret not in repr(issued) + repr(agent) + repr(vars(agent).get("_session", vars(agent)))


def test_wanted_life_is_capped_by_the_policy(leash: Leash) -> None:
    """`max_ttl` bounds any requested lifetime."""
    leash.load(one={**READ, "token": {"ttl": "1h", "max_ttl": "2h"}})

    def life_s(**options: Any) -> tuple[int, bool]:
        before = now_us(leash) // 1000
        issued = leash.issue("one", **options)
        return round((issued.expires_ms - before) / 1000), issued.capped

    assert life_s() == (3600, False)
    assert life_s(ttl="1m") == (60, False)
    assert life_s(ttl="25h") == (7200, True)


def test_list_tells_the_state_of_each_token(leash: Leash) -> None:
    """Newest first, with who issued it and why."""
    leash.load(one=READ, two=READ)
    live = leash.issue("one", note="deploy 7")
    expired, revoked = leash.issue("one"), leash.issue("two")
    age(leash, "one", expired.token, expires_us=(now_us(leash) - 3_600_000_000) // 1000 * 1000)
    revoke(leash.store, token_id=revoked.id)

    listed = {info.id: info for info in list_tokens(leash.store)}
    assert {token_id: info.state for token_id, info in listed.items()} == {
        live.id: TokenState.LIVE,
        expired.id: TokenState.EXPIRED,
        revoked.id: TokenState.REVOKED,
    }
    assert (listed[live.id].by, listed[live.id].note) == ("ops", "deploy 7")
    assert [info.id for info in list_tokens(leash.store, "two")] == [revoked.id]


def test_list_forgets_tokens_whose_record_is_gone(leash: Leash) -> None:
    """A week after expiry the public name goes too."""
    leash.load(one=READ)
    issued = leash.issue("one")
    leash.admin.delete(NAMES.token("one", token_digest(issued.token)))

    assert list_tokens(leash.store) == []
    assert leash.admin.hlen(NAMES.tokens("one")) == 0


def test_list_by_whoever_may_only_read_is_the_same(leash: Leash) -> None:
    """A client that may only read deletes nothing, also on a replica."""
    leash.load(one=READ)
    kept, gone = leash.issue("one"), leash.issue("one")
    leash.admin.delete(NAMES.token("one", token_digest(gone.token)))
    rights = {"categories": ["+@read"], "commands": ["+time", "+cluster"], "keys": ["*"]}
    leash.admin.acl_setuser("reader", enabled=True, nopass=True, **rights)

    listed = list_tokens(leash.store_of(username="reader", password="x"))

    assert [item.id for item in listed] == [kept.id]
    assert leash.admin.hlen(NAMES.tokens("one")) == 2


def test_token_is_issued_only_for_an_identity_of_the_active_policy(leash: Leash) -> None:
    """And the error lists those that are."""
    with raises_code("no-policy"):
        leash.issue("one")
    leash.load(one=READ)
    with raises_code("unknown-identity") as error:
        leash.issue("two")
    assert error.value.help == "it has `one`"


def test_many_tokens_are_issued_at_once_and_each_works(leash: Leash) -> None:
    """As an orchestrator needs them: all distinct, all listed, each with its own event."""
    leash.load(one={**READ, "token": {"ttl": "1h", "max_ttl": "2h"}})

    issued = issue_tokens(leash.store, "one", 250, ttl="7201s", note="batch")

    assert len({item.id for item in issued}) == len({item.token for item in issued}) == 250
    assert {(item.identity, item.capped) for item in issued} == {("one", True)}
    listed = {token.id: token for token in list_tokens(leash.store, "one")}
    assert listed.keys() == {item.id for item in issued}
    assert {(item.note, item.by, item.state) for item in listed.values()} == {
        ("batch", "ops", TokenState.LIVE)
    }
    for item in (issued[0], issued[-1]):
        assert leash.client(item.token).get("doc:1") is None
        assert listed[item.id].expires_ms == item.expires_ms
    events = [fields for _, fields in leash.admin.xrange(NAMES.control)][1:]
    assert [event[b"token"].decode() for event in events] == [item.id for item in issued]
    assert {event[b"event"] for event in events} == {b"issue"}


@pytest.mark.parametrize("count", [0, -1])
def test_count_of_tokens_below_one_issues_none(leash: Leash, count: int) -> None:
    """A miscalculation is an error and not an empty list."""
    leash.load(one=READ)

    with pytest.raises(ValueError, match="`count` must be over 0"):
        issue_tokens(leash.store, "one", count)

    assert list_tokens(leash.store) == []


def test_tokens_for_an_unknown_identity_are_not_issued(leash: Leash) -> None:
    """Nothing is written for a name that no policy has."""
    leash.load(one=READ)

    with raises_code("unknown-identity"):
        issue_tokens(leash.store, "two", 3)

    assert leash.admin.exists(NAMES.tokens("two")) == 0
    assert [*leash.admin.scan_iter(NAMES.token("two", "*"))] == []


def test_tokens_are_not_issued_in_part_where_a_record_has_another_type(leash: Leash) -> None:
    """A script does not roll back, so it looks before it writes."""
    leash.load(one=READ)
    leash.admin.set(NAMES.tokens("one"), "corrupt")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        issue_tokens(leash.store, "one", 3)

    assert [*leash.admin.scan_iter(NAMES.token("one", "*"))] == []


def test_issuing_follows_the_rules_of_each_activation(leash: Leash) -> None:
    """They are in the guard record, which an activation replaces in one step."""
    leash.load(one={**READ, "token": {"ttl": "1h"}})
    first = read_active(leash.store)
    assert first is not None
    hour = leash.issue("one")
    leash.load(one={**READ, "token": {"ttl": "2h"}})
    two_hours = leash.issue("one")
    leash.load(first.document)
    hour_again = leash.issue("one")
    leash.load(two=READ)

    with raises_code("unknown-identity"):
        leash.issue("one")
    lives = {token.id: token.expires_ms - token.issued_ms for token in list_tokens(leash.store)}
    assert lives[hour.id] == lives[hour_again.id] == 3_600_000
    assert lives[two_hours.id] == 7_200_000


def test_issuing_reads_no_policy_document(leash: Leash) -> None:
    """With 1,000 identities reading it takes most of a second."""
    leash.load(one=READ)
    leash.admin.hset(NAMES.policy, "document", "unreadable: [")

    issued = leash.issue("one")

    assert [token.id for token in list_tokens(leash.store)] == [issued.id]


def test_idle_token_expires_and_use_keeps_it_alive(leash: Leash) -> None:
    """Every allowed call is a use, written down at most once a second."""
    leash.load(one={**READ, "kind": "human", "token": {"ttl": "1h", "idle": "15m"}})
    issued = leash.issue("one")
    agent = leash.client(issued.token)
    quarter_us = 15 * 60_000_000

    age(leash, "one", issued.token, used_us=now_us(leash) - quarter_us + 5_000_000)
    assert agent.get("doc:1") is None
    record = leash.admin.get(NAMES.token("one", token_digest(issued.token)))
    assert now_us(leash) - TokenRecord.unpack(record).used_us < 60_000_000
    long_ago = now_us(leash) - quarter_us - 2_000_000
    age(leash, "one", issued.token, used_us=long_ago)
    with pytest.raises(keyleash.TokenExpiredError) as refusal:
        agent.get("doc:1")
    assert refusal.value.details == {"idle_since_ms": str(round(long_ago / 1000))}


def test_refused_call_does_not_keep_an_idle_token_alive(leash: Leash) -> None:
    """A refused call consumes nothing and counts for nothing."""
    leash.load(one={**READ, "kind": "human", "token": {"ttl": "1h", "idle": "15m"}})
    issued = leash.issue("one")
    idle_since = now_us(leash) - 600_000_000
    age(leash, "one", issued.token, used_us=idle_since)

    with pytest.raises(keyleash.KeyNotGrantedError):
        leash.client(issued.token).get("other")
    record = leash.admin.get(NAMES.token("one", token_digest(issued.token)))
    assert TokenRecord.unpack(record).used_us == idle_since


def test_issue_and_revoke_are_in_the_control_stream(leash: Leash) -> None:
    """Who, what and for whom; never the secret."""
    leash.load(one=READ)
    issued = leash.issue("one")
    revoke(replace(leash.store, actor="oncall"), token_id=issued.id)

    events = [fields for _, fields in leash.admin.xrange(NAMES.control)][1:]
    assert events == [
        {b"event": b"issue", b"actor": b"ops", b"identity": b"one", b"token": issued.id.encode()},
        {
            b"event": b"revoke",
            b"actor": b"oncall",
            b"identity": b"one",
            b"token": issued.id.encode(),
        },
    ]


def test_tokens_are_distinct_and_long(leash: Leash) -> None:
    """32 url-safe characters, 192 bits, after the identity's name."""
    leash.load(one=READ)
    tokens = {leash.issue("one").token for _ in range(20)}

    assert len(tokens) == 20
    assert all(len(token.removeprefix("kl_one_")) == 32 for token in tokens)


def test_error_of_a_refused_call_does_not_carry_the_token(leash: Leash) -> None:
    """Not in the message, not in the arguments, not in the chain."""
    leash.load(one=READ)
    token = leash.issue("one").token

    with pytest.raises(redis.ResponseError) as refusal:
        leash.client(token).get("other")
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__
    assert token not in repr(refusal.value.args) + repr(vars(refusal.value))
