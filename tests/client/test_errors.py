"""Errors of denied calls: typed, and never with the token."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import keyleash
from client.alike import EITHER, ONE_EITHER
from keyleash import LeashError, ReplyCode
from keyleash.commands.facts import FLUSHES
from keyleash.commands.spec import CommandSpec, OperationClass
from keyleash.errors.sentences import explain, reason_of
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.token import TokenRecord
from keyleash.store.wire import refusal
from support.errors import OF_CLUSTERS
from support.leash import NAMES, Leash, grant, policy
from support.loading import load_policy

PUBLISHER = {"allow": ["publish"], "channels": ["c:*"]}
READER = {"grants": [grant("read", keys="t:*")]}


def fresh(leash: Leash, **limits: Any) -> keyleash.Redis:
    leash.load(one={**READER, **limits, "deny": [{"keys": ["t:deny"]}]})
    return leash.agent("one")


def suspended(leash: Leash) -> None:
    client = fresh(leash)
    freeze(leash.store, "one", reason="x")
    client.get("t:a")


def revoked(leash: Leash) -> None:
    client = fresh(leash)
    revoke(leash.store, identity="one")
    client.get("t:a")


def expired(leash: Leash) -> None:
    client = fresh(leash)
    now_us = int(leash.admin.time()[0]) * 1_000_000
    leash.put_token("one", client._session._token, TokenRecord("a" * 12, now_us, now_us))
    client.get("t:a")


def stale(leash: Leash) -> None:
    client = fresh(leash)
    client.get("t:a")
    record = leash.admin.hgetall("keyleash:guard:one")
    leash.load(one=READER)
    # A record that went back, as from a restored backup.
    leash.admin.hset("keyleash:guard:one", mapping=record)
    leash.admin.hset("keyleash:source:one", record[b"digest"], "")
    client.get("t:a")


def flushed(leash: Leash) -> None:
    client = fresh(leash)
    client.get("t:a")
    leash.admin.flushall()
    client.get("t:a")


def unindexed(leash: Leash) -> None:
    """Search as on a server with the module: the guard denies before it asks that."""
    spec = CommandSpec("FT.SEARCH", -3, ("readonly",), (), index=OperationClass.READ)
    body = {"grants": [{"allow": ["read"], "indexes": ["a"]}]}
    table = leash.server.table.extended({spec.name: spec})
    load_policy(leash.store, policy(one=body), table=table, allow_removal=True)
    leash.agent("one").execute_command("FT.SEARCH", "b", "*")


def mismatched(leash: Leash) -> None:
    client = fresh(leash)
    client.get("t:a")
    answered = leash.raw("one", ["t:b"], client._session._token, "", "GET", "t:a")
    raise refusal(answered) or AssertionError(answered)


def limited(leash: Leash) -> None:
    client = fresh(leash, rate={"requests": "1/minute"})
    client.get("t:a")
    client.get("t:a")


def spent(leash: Leash) -> None:
    client = fresh(leash, budget={"requests": "1/day"})
    client.get("t:a")
    client.get("t:a")


def unexported(leash: Leash) -> None:
    audit = {"retain": {"until": "exported", "hard_max": 1}}
    client = fresh(leash, grants=[grant("write", keys="t:*")], audit=audit)
    client.set("t:a", 1)
    client.set("t:a", 2)


def corrupt(leash: Leash) -> None:
    client = fresh(leash, budget={"requests": "1/day"})
    leash.admin.setrange(NAMES.state("one"), 24, b"\xff" * 8)
    client.get("t:a")


def over_delegated(leash: Leash) -> None:
    rules = {"token": {"bound": True}, "delegate": {"depth": 1}}
    fresh(leash, **rules).delegate(allow=["write"])


def renewed(leash: Leash) -> None:
    fresh(leash, token={"ttl": "1h", "max_ttl": "1h", "renew": True}).renew("2h")


def sent_again(leash: Leash, *, last: str, max_reply: str) -> None:
    grants = [grant("read", "write", keys="t:*")]
    fresh(leash, grants=grants, idempotency={"keep": "1h", "max_reply": max_reply})
    token = leash.issue("one").token
    for value in ("first", last):
        answered = leash.raw("one", ["t:a"], token, "", "once", "id", "SET", "t:a", value)
    raise refusal(answered) or AssertionError(answered)


CAUSES: dict[ReplyCode, tuple[Callable[[Leash], Any], set[str]]] = {
    ReplyCode.SUSPENDED: (suspended, {"reason"}),
    ReplyCode.POLICY_STALE: (stale, set()),
    ReplyCode.TOKEN_UNKNOWN: (
        lambda leash: fresh(leash) and leash.client("kl_one_x").ping(),
        set(),
    ),
    ReplyCode.TOKEN_EXPIRED: (expired, {"expired_at_ms"}),
    ReplyCode.TOKEN_REVOKED: (revoked, set()),
    ReplyCode.COMMAND_REFUSED: (lambda leash: fresh(leash).flushall(), {"command", "reason"}),
    ReplyCode.CLASS_NOT_GRANTED: (lambda leash: fresh(leash).set("t:a", 1), {"class", "command"}),
    ReplyCode.KEY_NOT_GRANTED: (lambda leash: fresh(leash).get("u:\xe9 x"), {"key"}),
    ReplyCode.KEY_DENIED: (lambda leash: fresh(leash).get("t:deny"), {"key"}),
    ReplyCode.CHANNEL_NOT_GRANTED: (
        lambda leash: fresh(leash, grants=[PUBLISHER]).publish("d:x", "hello"),
        {"channel"},
    ),
    ReplyCode.INDEX_NOT_GRANTED: (unindexed, {"index"}),
    ReplyCode.KEYS_MISMATCH: (mismatched, set()),
    ReplyCode.ARGS_TOO_MANY: (lambda leash: fresh(leash).mget(["t:a"] * 7001), {"arguments"}),
    ReplyCode.WORK_TOO_LARGE: (
        lambda leash: fresh(leash).srandmember("t:a", -(10**9)),
        {"command", "work", "limit"},
    ),
    ReplyCode.KEY_TOO_LONG: (
        lambda leash: fresh(leash).get("t:" + "a" * 1023),
        {"key", "bytes", "limit"},
    ),
    ReplyCode.VALUE_TOO_LARGE: (
        lambda leash: fresh(leash, grants=[grant("write", keys="t:*")]).setrange("t:a", 2**26, "x"),
        {"key", "bytes", "limit"},
    ),
    ReplyCode.VALUE_REFUSED: (
        lambda leash: fresh(
            leash, grants=[{**grant("write", keys="t:*"), "values": {"max_elements": 1}}]
        ).sadd("t:s", "a", "b"),
        {"key", "rule", "limit", "was"},
    ),
    ReplyCode.DELEGATION_REFUSED: (over_delegated, {"reason", "restriction"}),
    ReplyCode.RENEWAL_REFUSED: (renewed, {"reason"}),
    ReplyCode.IDEMPOTENCY_CONFLICT: (
        lambda leash: sent_again(leash, last="other", max_reply="1kb"),
        {"once"},
    ),
    ReplyCode.REPLAYED: (lambda leash: sent_again(leash, last="first", max_reply="1b"), set()),
    ReplyCode.NOT_ACTIVE: (flushed, set()),
    ReplyCode.RATE_LIMITED: (limited, {"limit", "retry_after_ms"}),
    ReplyCode.BUDGET_EXHAUSTED: (spent, {"limit", "resets_at_ms"}),
    ReplyCode.AUDIT_FULL: (unexported, {"events"}),
    ReplyCode.COUNTER_CORRUPT: (corrupt, {"limit"}),
}


def test_every_code_has_a_cause_here() -> None:
    """A new code must show how it looks to an agent."""
    assert set(CAUSES) | OF_CLUSTERS == set(ReplyCode)


@EITHER
@pytest.mark.parametrize("code", CAUSES)
def test_refusal_is_raised_as_its_own_class(leash: Leash, code: ReplyCode) -> None:
    """With code and details, and as the ResponseError that redis-py's users catch."""
    cause, details = CAUSES[code]
    with pytest.raises(redis.ResponseError) as caught:
        cause(leash)

    error = caught.value
    assert isinstance(error, LeashError)
    assert error.code is code
    assert type(error).__name__.removesuffix("Error").upper() == code.replace("_", "")
    assert set(error.details) == details
    assert str(error).startswith(code)


def test_rate_error_says_when_to_try_again(leash: Leash) -> None:
    """Never zero, and not later than the rate's window."""
    with pytest.raises(keyleash.RateLimitedError) as caught:
        limited(leash)

    assert 1 <= caught.value.retry_after_ms <= 60_000


def test_budget_error_says_when_the_next_window_begins(leash: Leash) -> None:
    """In server time, at most a day from now."""
    with pytest.raises(keyleash.BudgetExhaustedError) as caught:
        spent(leash)
    seconds, _ = leash.admin.time()

    assert 0 < caught.value.resets_at_ms - seconds * 1000 <= 86_400_000


@EITHER
@pytest.mark.parametrize(
    "key", ["u:a b", "u:\r\n", "u:%41", "u:=", "u:é", b"u:\xff\x00", "u:LEASH"]
)
def test_refused_key_is_told_as_it_was(leash: Leash, key: str | bytes) -> None:
    """Escaped on the wire, one line, and whole again in the error, whose text has the help."""
    with pytest.raises(keyleash.KeyNotGrantedError) as caught:
        fresh(leash).get(key)

    raw = key if isinstance(key, bytes) else key.encode()
    assert caught.value.details["key"].encode("utf-8", "surrogateescape") == raw
    assert "\n" not in caught.value.message
    assert str(caught.value) == f"{caught.value.message}\nhelp: {caught.value.help}"


@pytest.mark.parametrize(
    "carry",
    [copy.copy, lambda error: pickle.loads(pickle.dumps(error))],  # noqa: S301
)
def test_error_survives_the_way_between_processes(carry: Callable[[Any], Any]) -> None:
    """Process pools and task queues pickle what a worker raises; redis-py's errors can be."""
    error = keyleash.RateLimitedError({"limit": "rate", "retry_after_ms": "5"}, help="wait")
    carried = carry(error)

    assert type(carried) is keyleash.RateLimitedError
    assert str(carried) == str(error)
    assert (carried.details, carried.help) == (error.details, error.help)


# The token.


def test_client_without_a_token_is_a_type_error(one_leash: Leash) -> None:
    """At the constructor, and not at the first call."""
    guarded: Any = keyleash.Redis
    for make in (
        guarded,
        lambda: guarded.from_url(one_leash.server.url),
        lambda: guarded.from_pool(redis.ConnectionPool()),
        lambda: guarded(token=None),
    ):
        with pytest.raises(TypeError):
            make()


BAD_TOKENS = {
    "empty": "",
    "no prefix": "secret-secret",
    "no identity": "kl__secret-secret",
    "no secret": "kl_one_",
    "unknown identity": "kl_nobody_secret-secret",
    "a megabyte": "kl_one_" + "secret-secret" * 80_000,
    "not ascii": "kl_one_sécret-secret",
    "not encodable": "kl_one_secret-\ud800secret",
    "newline": "kl_one_secret\r\n-secret",
    "nul": "kl_one_\x00secret-secret",
    "glob": "kl_one_secret*",
    "traversal": "kl_one_one:secret",
    "upper case": "kl_ONE_secret-secret",
    "spaces": " kl_one_secret-secret ",
}


@ONE_EITHER
@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_bad_token_is_refused_and_not_repeated(
    one_leash: Leash, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By the client if it has not the shape of a token, else by the server."""
    with caplog.at_level(logging.DEBUG), pytest.raises(LeashError) as caught:
        one_leash.client(token).get("t:a")

    assert caught.value.code in {ReplyCode.TOKEN_UNKNOWN, ReplyCode.NOT_ACTIVE}
    assert one_leash.admin.get("t:a") is None
    assert_secret("secret", caught.value, caplog)


@EITHER
@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1],
        lambda token: token + "x",
        lambda token: token.swapcase().replace("KL_ONE_", "kl_one_"),
        lambda token: token.replace("kl_one_", "kl_two_"),
        lambda token: token + "\n",
    ],
    ids=["truncated", "longer", "swapped case", "another identity", "newline"],
)
def test_changed_token_is_unknown(leash: Leash, spoil: Callable[[str], str]) -> None:
    """Every character counts, and a token of one identity is none of another's."""
    leash.load(one=READER, two=READER)
    token = leash.issue("one").token
    assert leash.client(token).get("t:a") is None

    with pytest.raises(keyleash.TokenUnknownError):
        leash.client(spoil(token)).get("t:a")


@ONE_EITHER
@pytest.mark.parametrize("code", CAUSES)
def test_token_is_in_no_error_and_no_log(
    one_leash: Leash,
    code: ReplyCode,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is refused, at the most talkative log level."""
    made: list[str] = []
    issue = Leash.issue

    def remembered(self: Leash, identity: str, **options: Any) -> Any:
        issued = issue(self, identity, **options)
        made.append(issued.token)
        return issued

    monkeypatch.setattr(Leash, "issue", remembered)
    with caplog.at_level(logging.DEBUG), pytest.raises(LeashError) as caught:
        CAUSES[code][0](one_leash)

    for token in made:
        assert_secret(token, caught.value, caplog)
        # With --showlocals, and in services that collect errors, it would be shown.
        assert_unseen(token, caught.value)


def unreachable(client: Any) -> None:
    client.connection_pool.connection_kwargs["port"] = 1
    closing = client.connection_pool.disconnect()
    if closing is not None:
        client._settled(closing)
    # Connections that were made keep their port.
    client.connection_pool.reset()
    client.get("t:a")


@ONE_EITHER
@pytest.mark.parametrize(
    "provoke",
    [
        lambda r: r.set("t:a", object()),
        lambda r: r.set("t:a", "\ud800"),
        lambda r: r.get("\ud800"),
        lambda r: r.mset({"t:a": "\ud800"}),
        lambda r: r.incr("t:list"),
        lambda r: r.get("u:a"),
        lambda r: r.blpop("u:a"),
        lambda r: r.pipeline().get("u:a").execute(),
        lambda r: r.pipeline().set("t:a", "\ud800").execute(),
        lambda r: r.pipeline(transaction=False).set("t:a", object()).execute(),
        lambda r: r.pipeline(transaction=False).get("t:list").execute(),
        lambda r: r.get(None),
        lambda r: r.execute_command(),
        lambda r: r.execute_command(None),
        lambda r: r.execute_command("GET", "t:list"),
        unreachable,
    ],
)
def test_token_is_in_no_exception_of_redis_py(
    one_leash: Leash, provoke: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Encoders and sockets fail too, and know the whole request."""
    one_leash.admin.lpush("t:list", 1)
    token = one_leash.issue("one").token
    client = one_leash.client(token, retry=Retry(NoBackoff(), 1))
    client.ping()

    with caplog.at_level(logging.DEBUG), pytest.raises(Exception) as caught:  # noqa: PT011
        provoke(client)
    assert_secret(token, caught.value, caplog)
    assert_unseen(token, caught.value)


@EITHER
def test_token_is_in_no_repr(leash: Leash) -> None:
    """Of the client, its pool, its connection and what was issued."""
    issued = leash.issue("one")
    client = leash.client(issued.token, single_connection_client=True)

    for shown in (client, client.connection_pool, client.connection, client._session, issued):
        assert issued.token not in repr(shown)
        assert issued.token not in str(shown)


def assert_unseen(token: str, error: BaseException) -> None:
    """In nothing that a function between the test and the error holds."""
    for item in (error, error.__cause__, error.__context__):
        for frame, _ in traceback.walk_tb(item.__traceback__ if item else None):
            if Path(frame.f_code.co_filename).parent != Path(__file__).parent:
                assert token not in repr(frame.f_locals), frame


def assert_secret(token: str, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    chain: list[BaseException | None] = [error, error.__cause__, error.__context__]
    for item in chain:
        if item is not None:
            assert token not in str(item)
            assert token not in repr(item)
            assert token not in repr(item.args)
            assert token not in "".join(traceback.format_exception(item))
    assert token not in caplog.text


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("COPY", "t:a", "t:b", "DB", "1"), "with DB it reaches keys beyond those that it names"),
        (("XREAD", "LATER", "1", "STREAMS", "t:a", "0"), "a guard does not know `LATER`"),
        (("XGROUP", "NOPE", "t:a"), "no server that keyleash knows has that sub-command"),
        (("XGROUP", "HELP"), "it names no key that a grant could cover"),
        (("XGROUP",), "name its sub-command"),
        (("XINFO STREAM", "t:a"), "no grant allows its sub-commands, or none is named"),
        (("CONFIG GET", "x"), "no policy can allow this command or any of its sub-commands"),
        (("ACL", "WHOAMI"), "no policy can allow this command or any of its sub-commands"),
        (("SLOWLOG GET",), "no policy can allow this command or any of its sub-commands"),
        (("MODULE LIST",), "no policy can allow this command or any of its sub-commands"),
        (("LATENCY", "LATEST"), "no policy can allow this command or any of its sub-commands"),
        (("COMMAND",), "no policy can allow this command or any of its sub-commands"),
        (("BITFIELD", "t:a", "GET", "u60", "0"), "a script would round such an integer"),
        (("NOSUCH", "t:a"), "no server that keyleash knows has it"),
        (("RESTORE", "t:a", "0", "x"), "no grant names it in `only`"),
        (("MSETEX", "0"), "no grant allows it, or the server lacks it"),
    ],
)
def test_refused_command_says_why(one_leash: Leash, command: tuple[str, ...], reason: str) -> None:
    """The guard's line names what it refuses; the client knows the table and says the reason."""
    excluded = {"except": ["MSETEX", "XINFO"]}
    one_leash.load(one={"grants": [grant("read", "write", keys="t:*", **excluded)]})

    with pytest.raises(keyleash.CommandRefusedError) as refused:
        one_leash.agent("one").execute_command(*command)
    assert refused.value.details["reason"] == reason


def test_denied_pattern_of_sort_is_called_a_pattern(one_leash: Leash) -> None:
    """It is no key, and a deny rule only may match one that it names."""
    one_leash.load(one={"grants": [grant("read", keys="t:*")], "deny": [{"keys": ["t:deny:*"]}]})
    agent = one_leash.agent("one")

    with pytest.raises(keyleash.KeyNotGrantedError) as denied:
        agent.sort("t:a", by="weight:*")
    message, help = explain(denied.value)
    assert message.endswith("covers all keys of the SORT pattern `weight:*`")
    assert help.startswith("use a pattern that a read grant covers, and that ends in `*`")
    with pytest.raises(keyleash.KeyDeniedError) as denied_by_rule:
        agent.sort("t:a", by="nosort", get=["t:*->name"])
    message, _ = explain(denied_by_rule.value)
    assert message == ("KEY_DENIED: a `deny` rule may match a key of the SORT pattern `t:*->name`")
    with pytest.raises(keyleash.KeyNotGrantedError) as of_a_key:
        agent.sort("other")
    assert "the key `other`" in explain(of_a_key.value)[0]


@pytest.mark.parametrize(
    "call",
    [lambda agent: agent.publish("t:c", "x"), lambda agent: agent.pubsub().subscribe("t:c")],
    ids=["PUBLISH", "SUBSCRIBE"],
)
def test_denial_of_a_channel_class_has_the_channel_in_its_details(
    one_leash: Leash, call: Callable[[Any], Any]
) -> None:
    """As that of other classes has the key; a subscription has no number in a batch."""
    one_leash.load(one=READER)
    with pytest.raises(keyleash.ClassNotGrantedError) as denied:
        call(one_leash.agent("one"))
    assert denied.value.details["channel"] == "t:c"
    assert "item" not in denied.value.details


@EITHER
@pytest.mark.parametrize("code", CAUSES)
def test_denial_has_the_help_that_the_command_line_shows(leash: Leash, code: ReplyCode) -> None:
    """A program shows it to the same operator; the text stays one line."""
    with pytest.raises(LeashError) as caught:
        CAUSES[code][0](leash)

    assert caught.value.help == explain(caught.value)[1]
    assert caught.value.help
    assert "{" not in caught.value.help


# What denials say to people.


def test_denial_by_restrictions_names_the_token_and_not_the_policy(leash: Leash) -> None:
    """The identity has the grant, so a wider policy would change nothing."""
    rules = {"token": {"bound": True}}
    grants = [
        grant("read", "write", "scan", keys="t:*"),
        {"allow": ["publish"], "channels": ["c:*"]},
    ]
    fresh(leash, grants=grants, **rules)
    client = leash.client(leash.issue("one", allow=["read", "publish"], keys=["t:a*"]).token)
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: client.get("t:b"), "no grant of the token covers the key `t:b`"),
        (lambda: client.set("t:a", 1), "no grant of the token gives `write`"),
    ]

    for call, message in calls:
        with pytest.raises(LeashError) as caught:
            call()
        reason = reason_of(caught.value)
        assert reason.sentence.startswith(message)
        assert "`client.whoami()` lists" in reason.agent
        assert "issue a token with other restrictions" in reason.operator


def test_delegation_that_the_policy_does_not_have_names_the_field(leash: Leash) -> None:
    """It is no unknown command."""
    with pytest.raises(keyleash.CommandRefusedError) as caught:
        fresh(leash).delegate()

    reason = reason_of(caught.value)
    assert "the policy does not let tokens delegate" in reason.sentence
    assert "`delegate: {depth: 1}`" in reason.operator


@pytest.mark.parametrize(
    ("details", "texts"),
    [
        ({"reason": "outlives", "restriction": "1200"}, ("outlive", "shorter `ttl` than 20m")),
        ({"reason": "ttl", "restriction": "3660"}, ("its life", "shorter `ttl` than 1h1m")),
        ({"reason": "children"}, ("`delegate.children`", "wait until some of them expire")),
        ({"reason": "depth"}, ("no deeper", "use the token itself")),
        ({"reason": "rotated"}, ("another token", "the new token")),
        ({"reason": "meta"}, ("a label", "ASCII")),
        ({"reason": "meta", "restriction": "Run"}, ("a label is malformed", "not `Run`")),
        ({"reason": "bind", "restriction": "user=a"}, ("this binding", "the capture `{user}`")),
        ({"reason": "budget", "restriction": "requests=0"}, ("a cap", "not `requests=0`")),
    ],
)
def test_refused_delegation_has_the_help_of_its_reason(
    details: dict[str, str], texts: tuple[str, str]
) -> None:
    """Most reasons are other ones than asking for too much."""
    message, help = explain(keyleash.DelegationRefusedError(details))

    assert texts[0] in message
    assert help is not None
    assert texts[1] in help


@pytest.mark.parametrize(
    ("rule", "limit", "was", "text"),
    [
        ("ttl", "604800000", "999999000", "an expiry of at most 7d: the call asks for 11d13h"),
        ("ttl", "604800000", "none", "set one of at most 7d: it must expire"),
        ("only", "absent", "present", "write to a new key: this one exists"),
        ("max_elements", "5", "6", "at most 5, and the call may leave 6"),
        ("budget.bytes_written", "5", "6", "at most 5 bytes in one call: this one writes 6"),
    ],
)
def test_refused_value_is_described_in_units(rule: str, limit: str, was: str, text: str) -> None:
    """Details are milliseconds and single words, for programs."""
    details = {"key": "k", "rule": rule, "limit": limit, "was": was}
    message, help = explain(keyleash.ValueRefusedError(details))

    assert message.startswith(f"VALUE_REFUSED: the rule `{rule}`")
    assert text in help


@pytest.mark.parametrize(
    ("details", "found", "remedy"),
    [
        (
            {"limit": "budget.bytes_written"},
            "`budget.bytes_written` has less left",
            "or retry after",
        ),
        ({"limit": "token.bytes_written"}, "`token.bytes_written` has less left", "a new token"),
    ],
)
def test_budget_with_too_few_bytes_left_is_not_called_exhausted(
    details: dict[str, str], found: str, remedy: str
) -> None:
    """A smaller call may fit."""
    denial = keyleash.BudgetExhaustedError({**details, "resets_at_ms": "0"})
    message, help = explain(denial)

    assert found in message
    assert help.startswith("write less in one call")
    assert remedy in help


def test_used_up_cap_of_an_ancestor_is_named_as_such() -> None:
    """The token itself may have no cap."""
    details = {"limit": "token.requests", "resets_at_ms": "0", "by": "ancestor"}
    reason = reason_of(keyleash.BudgetExhaustedError(details))

    assert "never resets: use a new token" in reason.agent
    assert "or one from which it was delegated" in reason.operator


def test_help_of_a_flush_names_no_replacement() -> None:
    """A model would delete the keys that a replacement names."""
    message, help_ = explain(
        keyleash.CommandRefusedError({"command": "FLUSHALL", "reason": FLUSHES})
    )
    assert "SCAN" not in f"{message} {help_}"
    assert "report that you cannot do this" in str(help_)


@pytest.mark.parametrize(
    ("denial", "text"),
    [
        (keyleash.RenewalRefusedError({"reason": "delegated"}), "ask the holder of its parent"),
        (keyleash.RenewalRefusedError({"reason": "max_ttl"}), "ask the operator for another token"),
        (keyleash.RenewalRefusedError({"reason": "replaced"}), "use the new token"),
        (
            keyleash.DelegationRefusedError({"reason": "keys", "restriction": "jobs:{42}:*"}),
            "a brace is doubled: `{{42}}`",
        ),
        (
            keyleash.DelegationRefusedError({"reason": "outlives", "restriction": "60"}),
            "leave it out for the longest",
        ),
    ],
)
def test_help_of_a_refused_renewal_or_delegation_names_the_way_out(
    denial: keyleash.LeashError, text: str
) -> None:
    """An operator cannot renew a child token either."""
    assert text in str(explain(denial)[1])
