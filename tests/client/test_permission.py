"""`can_i()` of the clients, and the grants of `whoami()`: asked of the guard, by the holder."""

from __future__ import annotations

from typing import Any

import pytest

import keyleash
from client.alike import EITHER, ONE_EITHER
from keyleash.client.command_words import digest_of
from keyleash.operator.tokens.revoke import revoke
from support.leash import Leash, grant
from support.scripted import scripted

READS = "return redis.call('GET', KEYS[1])"
LIMITED: dict[str, Any] = {
    "grants": [
        grant("read", "write", "scan", keys=["t:{part}:*", "lock"]),
        {"allow": ["publish", "subscribe"], "channels": ["news:*"]},
    ],
    "deny": [{"keys": ["t:locked:*"]}],
    "token": {"bound": True},
    "rate": {"writes": "1/day"},
}


@EITHER
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("SET", "t:1:a", "v"), None),
        (("set", "t:1:a", 5), None),
        (("DEL", "t:1:a"), "CLASS_NOT_GRANTED"),
        (("GET", "other"), "KEY_NOT_GRANTED"),
        (("GET", "t:locked:a"), "KEY_DENIED"),
        (("FLUSHALL",), "COMMAND_REFUSED"),
        (("BLPOP", "t:1:list", 0), "CLASS_NOT_GRANTED"),
        (("SUBSCRIBE", "news:1"), None),
        (("SUBSCRIBE", "other"), "CHANNEL_NOT_GRANTED"),
        (("SUBSCRIBE", "news:1", "news:2"), None),
        (("SUBSCRIBE", "news:1", "other"), "CHANNEL_NOT_GRANTED"),
        (("PUBLISH", "news:1", "x"), None),
        (("KEYS", "t:*"), None),
        (("KEYS", "*"), "KEY_NOT_GRANTED"),
        (("WATCH", "t:1:a"), None),
        (("WATCH", "other"), "KEY_NOT_GRANTED"),
        (("MULTI",), None),
        (("INFO",), None),
        (("COMMAND",), "COMMAND_REFUSED"),
        (("COMMAND", "INFO", "GET"), None),
        (("SCRIPT", "EXISTS", "a"), None),
        (("SCRIPT", "LOAD", READS), "COMMAND_REFUSED"),
        (("EVAL", READS, 1, "t:1:a"), "COMMAND_REFUSED"),
        (("XGROUP CREATE", "t:1:s", "g", "$"), None),
    ],
)
def test_answer_is_the_verdict_of_the_call(leash: Leash, command: Any, code: str | None) -> None:
    """The question is about the call that the client would make."""
    leash.load(one=LIMITED)

    answer = leash.agent("one").can_i(*command)

    assert (answer.denial and answer.denial.code) == code
    assert bool(answer) is answer.allowed is (code is None)


@ONE_EITHER
def test_question_charges_and_records_nothing(one_leash: Leash) -> None:
    """Neither allowed nor denied; and limits are part of the answer."""
    one_leash.load(one=LIMITED)
    client: Any = one_leash.agent("one")
    client.ping()
    before = one_leash.admin.dbsize(), one_leash.state("one"), one_leash.events("one")

    for _ in range(3):
        assert client.can_i("SET", "t:1:a", "v")
        assert not client.can_i("SET", "other", "v")

    assert (one_leash.admin.dbsize(), one_leash.state("one"), one_leash.events("one")) == before
    assert one_leash.denials("one") == []
    client.set("t:1:a", "v")
    denial = client.can_i("SET", "t:1:a", "w").denial
    assert isinstance(denial, keyleash.RateLimitedError)
    assert denial.retry_after_ms > 0
    assert client.get("t:1:a") == b"v"


@ONE_EITHER
def test_question_that_reveals_what_a_key_holds_counts_as_the_call_would(one_leash: Leash) -> None:
    """A token that only writes cannot guess the members of a set for free."""
    one_leash.load(
        one={
            "grants": [{**grant("write", keys="s:*"), "values": {"max_elements": 2}}],
            "on_denials": {"threshold": "3/minute", "suspend": "10m"},
        }
    )
    one_leash.admin.sadd("s:pins", "17", "23")
    client: Any = one_leash.agent("one")

    answers = [client.can_i("SADD", "s:pins", str(guess)) for guess in range(5)]

    codes = [answer.denial.code for answer in answers]
    assert codes == ["VALUE_REFUSED"] * 3 + ["SUSPENDED"] * 2
    assert "VALUE_REFUSED" in {item["code"] for item in one_leash.denials("one")}


@ONE_EITHER
def test_question_about_a_script_runs_nothing(one_leash: Leash) -> None:
    """By text or digest; with keys that no grant covers it is denied."""
    text = "redis.call('SET', KEYS[1], 'x') return 1"
    client: Any = scripted(one_leash, text)

    assert client.can_i("EVAL", text, 1, "app:a")
    assert client.can_i("EVALSHA", digest_of(text), 1, "app:a")
    assert client.can_i("EVALSHA_RO", digest_of(text), 1, "app:a")
    assert client.can_i("EVALSHA", digest_of(text), 1, "a").denial.code == "KEY_NOT_GRANTED"
    assert client.get("app:a") is None
    assert one_leash.denials("one") == []
    assert [item.name for item in client.whoami().grants[0].scripts] == ["s"]


@ONE_EITHER
def test_question_with_an_ended_token_is_answered_with_its_denial(one_leash: Leash) -> None:
    """As every call would be."""
    issued = one_leash.issue("one")
    client: Any = one_leash.client(issued.token)
    client.ping()
    revoke(one_leash.store, token_id=issued.id)

    answer = client.can_i("GET", "k")
    assert answer.denial.code == "TOKEN_REVOKED"
    assert answer.to_dict()["denial"]["code"] == "TOKEN_REVOKED"


@ONE_EITHER
def test_grants_of_a_token_are_narrowed_by_its_restrictions(one_leash: Leash) -> None:
    """Bindings stand in the patterns, classes are left out, and keys are cut where they can be."""
    one_leash.load(one=LIMITED)
    bound = one_leash.issue("one", bind={"part": "7"}, allow=["read"])
    under = one_leash.issue("one", keys=["t:7:a", "t:8:*", "lock"])

    narrow: Any = one_leash.client(bound.token).whoami()
    wide: Any = one_leash.client(under.token).whoami()

    assert narrow.to_dict()["grants"] == [{"allow": ["read"], "keys": ["t:7:*"]}]
    assert narrow.to_dict()["deny"] == ["t:locked:*"]
    assert [key.source for key in wide.grants[0].keys] == ["t:7:a", "t:8:*", "lock"]


@ONE_EITHER
def test_command_lists_what_the_grants_allow(one_leash: Leash) -> None:
    """COMMAND INFO has no row for the others, but where the policy hides the grants."""
    one_leash.load(one={"grants": [grant("read", keys="t:*")]})
    names = ("GET", "SET", "FLUSHALL")
    client: Any = one_leash.agent("one")
    client.set_response_callback("COMMAND", lambda reply, **_: reply)
    shown = client.execute_command("COMMAND", "INFO", *names)
    one_leash.load(one={"grants": [grant("read", keys="t:*")], "token": {"publish_grants": False}})
    client.get("t:1")
    hidden = client.execute_command("COMMAND", "INFO", *names)

    assert [row and row[0] for row in shown] == ["get", None, None]
    assert [row and row[0] for row in hidden] == ["get", "set", None]
