"""Calls that a guard allows and denies, in the order of its checks."""

from __future__ import annotations

import re
from typing import Any

import pytest
import redis

import keyleash
from keyleash.compiler.quoting import RULE_DIGITS
from keyleash.compiler.render import examples_root
from keyleash.operator.suspension import freeze, thaw
from keyleash.operator.tokens.revoke import revoke
from support.leash import NAMES, Leash, grant
from support.streams import command_of

EXAMPLE = (examples_root() / "agents.yaml").read_text()
READ_WRITE: dict[str, Any] = {"grants": [grant("read", "write", keys="doc:*")]}


def test_allowed_write_and_read_answer_as_redis_py_would(leash: Leash) -> None:
    """The reply is the command's own."""
    leash.load(EXAMPLE)
    agent = leash.agent("agent-runner", decode_responses=True)

    assert agent.set("agents:jobs:1:state", "running") is True
    assert agent.get("agents:jobs:1:state") == "running"
    assert agent.get("agents:jobs:2:state") is None


def test_key_outside_every_grant_is_refused_by_name(leash: Leash) -> None:
    """The refusal says which key it was."""
    leash.load(EXAMPLE)

    with pytest.raises(keyleash.KeyNotGrantedError) as refusal:
        leash.agent("agent-runner").get("agents:context:7")
    assert refusal.value.details["key"] == "agents:context:7"
    assert refusal.value.code is keyleash.ReplyCode.KEY_NOT_GRANTED


@pytest.mark.parametrize(
    "key",
    [
        "agents:jobs::state",
        "agents:jobs:1:2:state",
        "agents:jobs:1:state:",
        "agents:jobs:1:stat",
        "xagents:jobs:1:state",
        "agents:jobs:1:state\n",
        "AGENTS:jobs:1:state",
        "",
    ],
)
def test_near_miss_of_a_pattern_is_not_granted(leash: Leash, key: str) -> None:
    """A capture is one non-empty segment, and matching is byte-exact and anchored."""
    leash.load(EXAMPLE)

    with pytest.raises(keyleash.KeyNotGrantedError):
        leash.agent("agent-runner").get(key)


def test_class_that_no_grant_gives_is_refused_by_name(leash: Leash) -> None:
    """A reader cannot write, and the denial names the class."""
    leash.load(EXAMPLE)

    with pytest.raises(keyleash.ClassNotGrantedError) as refusal:
        leash.agent("agent-reader").set("agents:context:1", "x")
    assert refusal.value.details["class"] == "write"
    assert leash.admin.exists("agents:context:1") == 0


def test_class_missing_on_the_matching_grant_is_named_with_the_key(leash: Leash) -> None:
    """Read on one prefix and write on another do not add up."""
    leash.load(one={"grants": [grant("read", keys="in:*"), grant("write", keys="out:*")]})

    with pytest.raises(keyleash.ClassNotGrantedError) as refusal:
        leash.agent("one").set("in:1", "x")
    assert refusal.value.details == {"class": "write", "command": "SET", "key": "in:1"}


def test_deny_rule_wins_over_a_grant(leash: Leash) -> None:
    """However broad the grant."""
    leash.load(one={"grants": [grant("read", keys="doc:*")], "deny": [{"keys": ["doc:{id}:lock"]}]})
    agent = leash.agent("one")

    assert agent.get("doc:{d}1:text") is None
    with pytest.raises(keyleash.KeyDeniedError) as refusal:
        agent.mget("doc:{d}1:text", "doc:{d}1:lock")
    assert refusal.value.details["key"] == "doc:{d}1:lock"


@pytest.mark.parametrize("option", ["GET", "get", "gEt", b"GET\0whatever"])
def test_write_grant_does_not_allow_set_with_get(leash: Leash, option: str | bytes) -> None:
    """SET … GET both reads and overwrites; the server takes `GET\\0…` for GET as well."""
    leash.load(one={"grants": [grant("write", keys="doc:*")]})
    agent = leash.agent("one")

    assert agent.execute_command("SET", "doc:1", "GET") is True
    with pytest.raises(keyleash.ClassNotGrantedError) as refusal:
        agent.execute_command("SET", "doc:1", "new", option)
    assert refusal.value.details["class"] == "read"
    assert leash.admin.get("doc:1") == b"GET"


def test_set_with_get_needs_read_on_the_same_key(leash: Leash) -> None:
    """Where both are granted it works, where only one is it does not."""
    leash.load(one={"grants": [grant("read", "write", keys="a:*"), grant("write", keys="b:*")]})
    agent = leash.agent("one")

    assert agent.set("a:1", "x", get=True) is None
    with pytest.raises(keyleash.ClassNotGrantedError):
        agent.set("b:1", "x", get=True)


def test_copy_needs_read_on_the_source_and_write_on_the_target(leash: Leash) -> None:
    """Classes are per key, from Redis's own key specs."""
    leash.load(one={"grants": [grant("read", keys="in:*"), grant("write", keys="out:*")]})
    leash.admin.set("in:{d}1", "x")
    agent = leash.agent("one")

    assert agent.copy("in:{d}1", "out:{d}1") is True
    with pytest.raises(keyleash.ClassNotGrantedError):
        agent.copy("out:{d}1", "in:{d}1")
    with pytest.raises(keyleash.KeyNotGrantedError):
        agent.copy("in:{d}1", "{d}elsewhere")


@pytest.mark.parametrize("option", ["DB", "db", b"dB\0x"])
def test_copy_into_another_database_is_refused(leash: Leash, option: str | bytes) -> None:
    """A grant is for the keys of the database that the guard is in; MOVE is refused as a whole."""
    leash.load(one={"grants": [grant("read", "write", "delete", keys="*")]})
    leash.admin.set("a{DB}", "x")
    agent = leash.agent("one")

    assert agent.execute_command("COPY", "a{DB}", "DB") == 1
    copy = ("COPY", "a{DB}", "b{DB}")
    for command in [(*copy, option, "1"), (*copy, "REPLACE", option, "1")]:
        with pytest.raises(keyleash.CommandRefusedError) as refusal:
            agent.execute_command(*command)
        assert refusal.value.details["command"] == "COPY DB"
    with pytest.raises(keyleash.CommandRefusedError):
        agent.move("a{DB}", 1)


def test_increment_needs_read_and_write(leash: Leash) -> None:
    """Its reply reveals the old value."""
    leash.load(
        one={"grants": [grant("write", keys="n")]},
        two={"grants": [grant("read", "write", keys="n")]},
    )

    with pytest.raises(keyleash.ClassNotGrantedError) as refusal:
        leash.agent("one").incr("n")
    assert refusal.value.details["class"] == "read"
    assert leash.agent("two").incr("n") == 1


def test_delete_is_a_class_of_its_own(leash: Leash) -> None:
    """A grant of write does not include delete."""
    leash.load(one=READ_WRITE, two={"grants": [grant("delete", keys="doc:*")]})
    leash.agent("one").set("doc:1", "x")

    with pytest.raises(keyleash.ClassNotGrantedError) as refusal:
        leash.agent("one").delete("doc:1")
    assert refusal.value.details["class"] == "delete"
    assert leash.agent("two").delete("doc:1") == 1


def test_key_without_class_needs_any_grant(leash: Leash) -> None:
    """EXISTS and TYPE reveal little, but not to strangers."""
    leash.load(one={"grants": [grant("write", keys="doc:*")]})
    agent = leash.agent("one")

    assert agent.exists("doc:1") == 0
    with pytest.raises(keyleash.KeyNotGrantedError):
        agent.exists("doc:1", "other")


def test_only_and_except_narrow_a_grant_to_commands(leash: Leash) -> None:
    """By name or by category; what every grant excludes is refused by name."""
    leash.load(
        one={"grants": [grant("read", "write", keys="doc:*", only=["GET", "@hash"])]},
        two={"grants": [grant("read", "write", keys="doc:*", **{"except": ["SET", "@dangerous"]})]},
    )

    assert leash.agent("one").get("doc:1") is None
    assert leash.agent("one").hset("doc:h", "a", "1") == 1
    for identity, command in [("one", "SET"), ("two", "SET"), ("two", "RESTORE")]:
        with pytest.raises(keyleash.CommandRefusedError):
            leash.agent(identity).execute_command(command, "doc:1", "0", "x")


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",), ("KEYS", "*"), ("EVAL", "return 1", "0"), ("CONFIG", "GET", "*"),
        ("SCRIPT", "FLUSH"), ("MIGRATE", "h", "1", "doc:1", "0", "1"),
        ("XREAD", "LATER", "1", "STREAMS", "doc:1", "0"),
        ("UNSUBSCRIBE", "c"), ("MONITOR",), ("CLIENT", "LIST"), ("PUBSUB", "CHANNELS"),
        ("PUBSUB", "NUMSUB", "c"),
        ("MULTI",), ("WATCH", "doc:1"), ("SELECT", "1"), ("AUTH", "x"), ("NOSUCHCOMMAND", "doc:1"),
        ("XGROUP", "HELP"), ("OBJECT", "HELP"), ("OBJECT",), ("OBJECT", "encoding ", "doc:1"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_command_without_placed_keys_is_refused(leash: Leash, command: tuple[str, ...]) -> None:
    """Keyless, unknown, or with keys that cannot be placed: refused even to the broadest grant."""
    leash.load(one={"grants": [grant("read", "write", "delete", "scan", keys="*")]})

    denial = leash.call("one", leash.issue("one").token, *command)
    assert denial.startswith(f"LEASH COMMAND_REFUSED command={command[0]}"), denial


def test_key_is_found_among_many_patterns(leash: Leash) -> None:
    """Patterns of one beginning, of none, and literal ones, each of them and what is near it."""
    kinds = [f"kind{n:02d}:{{id}}:state" for n in range(40)]
    others = ["kind:*", "k", "{any}:tail", "whole", "x:*"]
    leash.load(one={"grants": [grant("read", keys=[*kinds, *others])]})
    token = leash.issue("one").token

    allowed = [f"kind{n:02d}:7:state" for n in range(40)]
    allowed += ["kind:", "kind:a:b", "k", "a:tail", "whole", "x:"]
    refused = [f"kind{n:02d}:7:other" for n in range(40)]
    refused += ["kind40:7:state", "kind", "ki", "", "whole:", "wholes", "x", ":tail"]
    for key in allowed:
        assert leash.call("one", token, "GET", key) is None, key
    for key in refused:
        assert "KEY_NOT_GRANTED" in leash.call("one", token, "GET", key), key


def test_command_in_lower_case_is_refused_on_the_wire(leash: Leash) -> None:
    """The contract wants upper case; the wrapper sees to it."""
    leash.load(one=READ_WRITE)
    token = leash.issue("one").token

    assert leash.raw("one", ["doc:1"], token, "c", "get", "doc:1") == (
        "LEASH COMMAND_REFUSED command=get"
    )


def test_stretch_of_what_a_guard_knows_of_names_is_no_name(leash: Leash) -> None:
    """A guard keeps seldom-used names in one text; what lies across two of them is refused."""
    leash.load(one={"grants": [grant("read", "write", "delete", "scan", keys="*")]})
    token = leash.issue("one").token
    source = leash.stored_script("one")
    (records,) = (text for text in re.findall(r'"([A-Z0-9]+)"', source) if "GETRANGE" in text)
    names = {records[at : at + 8] for at in range(0, len(records), 8 + RULE_DIGITS)}
    stretches = {records[at : at + 8] for at in range(len(records) - 7)} - names
    assert "GETRANGE" in names

    for stretch in stretches:
        refusal = f"LEASH COMMAND_REFUSED command={stretch}"
        assert leash.raw("one", ["doc:1"], token, "c", stretch, "doc:1") == refusal


def test_ping_echo_and_time_pass(leash: Leash) -> None:
    """They touch no key."""
    leash.load(one=READ_WRITE)
    agent = leash.agent("one")

    assert agent.ping() is True
    assert agent.echo("hello") == b"hello"
    assert len(agent.time()) == 2


@pytest.mark.parametrize(
    "claimed",
    [[], ["doc:{d}2"], ["doc:{d}1", "doc:{d}2"], ["doc:{d}1", ""]],
    ids=["none", "another", "one-more", "an-empty-one-more"],
)
def test_claimed_keys_that_are_not_the_commands_are_refused(
    leash: Leash, claimed: list[str]
) -> None:
    """The caller's list of keys is a claim, and it is checked in full."""
    leash.load(one=READ_WRITE)
    token = leash.issue("one").token

    assert leash.raw("one", claimed, token, "c", "GET", "doc:{d}1") == "LEASH KEYS_MISMATCH"


def test_seven_thousand_arguments_pass_and_one_more_is_refused_uncounted(leash: Leash) -> None:
    """Lua's unpack ends at 7,999 values; the guard refuses before anything is taken."""
    leash.load(one={**READ_WRITE, "budget": {"requests": "2/day"}})
    agent = leash.agent("one")
    keys = [f"doc:{{d}}{i}" for i in range(6999)]

    with pytest.raises(keyleash.ArgsTooManyError) as refusal:
        agent.exists(*keys, "doc:{d}x")
    assert refusal.value.details["arguments"] == "7001"
    assert agent.exists(*keys) == 0
    assert agent.get("doc:{d}1") is None
    with pytest.raises(keyleash.BudgetExhaustedError):
        agent.get("doc:{d}1")


def test_own_errors_of_a_command_come_back_as_they_are(leash: Leash) -> None:
    """Wrong type, wrong arity, wrong syntax: the words are the server's."""
    leash.load(one=READ_WRITE)
    agent = leash.agent("one")
    agent.set("doc:1", "text")

    for command in [
        ("LPUSH", "doc:1", "x"),
        ("GET",),
        ("SET", "doc:1"),
        ("SET", "doc:1", "x", "BAD"),
    ]:
        with pytest.raises(redis.ResponseError) as raw:
            leash.at("doc:1").execute_command(*command)
        with pytest.raises(redis.ResponseError) as guarded:
            agent.execute_command(*command)
        assert str(guarded.value) == str(raw.value)
        assert type(guarded.value) is type(raw.value)


def test_control_keys_are_nobodys_data(leash: Leash) -> None:
    """A grant on everything does not reach tokens, states and audit."""
    leash.load(EXAMPLE)
    admin = leash.agent("human-admin")

    for key in (NAMES.state("human-admin"), NAMES.audit("agent-runner"), NAMES.policy, "keyleash:"):
        with pytest.raises(keyleash.KeyDeniedError):
            admin.delete(key)
    assert admin.set("keyleash", "x") is True


def test_refusals_follow_the_fixed_order(leash: Leash) -> None:
    """With everything wrong at once, each correction reveals the next denial."""
    document = {**READ_WRITE, "deny": [{"keys": ["doc:secret"]}], "budget": {"requests": "1/day"}}
    leash.load(one=document)
    stale = leash.digest("one")
    leash.load(one={**document, "rate": {"reads": "1/hour"}})
    live, revoked = leash.issue("one"), leash.issue("one")
    revoke(leash.store, token_id=revoked.id)
    freeze(leash.store, "one", reason="x")
    many = ["x"] * 7001

    def code(token: str, keys: list[str], *command: str, digest: str | None = None) -> str:
        answer = leash.raw("one", keys, token, "c", *command, digest=digest)
        return answer.split(" ")[1] if isinstance(answer, str) else "allowed"

    assert code("kl_one_x", [], *many, digest=stale) == "POLICY_STALE"
    assert code("kl_one_x", [], *many) == "TOKEN_UNKNOWN"
    assert code(revoked.token, [], *many) == "TOKEN_REVOKED"
    assert code(live.token, [], *many) == "SUSPENDED"
    thaw(leash.store, "one")
    assert code(live.token, [], *many) == "ARGS_TOO_MANY"
    assert code(live.token, [], "NOSUCH", "other") == "COMMAND_REFUSED"
    assert code(live.token, [], "DEL", "other") == "CLASS_NOT_GRANTED"
    assert code(live.token, [], "MGET", "doc:secret", "other") == "KEYS_MISMATCH"
    assert code(live.token, ["doc:secret", "other"], "MGET", "doc:secret", "other") == "KEY_DENIED"
    assert code(live.token, ["other", "doc:1"], "MGET", "other", "doc:1") == "KEY_NOT_GRANTED"
    assert code(live.token, ["doc:1"], "GET", "doc:1") == "allowed"
    assert code(live.token, ["doc:1"], "GET", "doc:1") == "RATE_LIMITED"
    assert code(live.token, ["doc:1"], "SET", "doc:1", "x") == "BUDGET_EXHAUSTED"


@pytest.mark.parametrize(
    "value",
    ["", "\n", '"', "]]", "'", "\0", b"\xff\xfe", "x" * 524_288, "LEASH KEY_DENIED key=x", "%d%s"],
    ids=[
        "empty",
        "newline",
        "quote",
        "brackets",
        "apostrophe",
        "nul",
        "binary",
        "long",
        "refusal",
        "format",
    ],
)
def test_any_bytes_travel_unharmed_as_key_and_value(leash: Leash, value: str | bytes) -> None:
    """Nothing of a call is ever read as Lua."""
    grants = [grant("read", "write", keys="*")]
    leash.load(one={"grants": grants, "limits": {"key_bytes": "1mb"}})
    agent = leash.agent("one")
    data = value.encode() if isinstance(value, str) else value

    assert agent.set(b"k" + data, data) is True
    assert agent.get(b"k" + data) == data
    assert command_of(leash.events("one")[-1])[0] == "SET"


@pytest.mark.parametrize("key", ["a b=c", "ключ", b"\xff\0\n", "x" * 1000, ""], ids=repr)
def test_refusal_names_an_awkward_key_on_one_line(leash: Leash, key: str | bytes) -> None:
    """Values are escaped, and long ones cut."""
    leash.load(one=READ_WRITE)

    with pytest.raises(keyleash.KeyNotGrantedError) as refusal:
        leash.agent("one").get(key)
    data = key.encode() if isinstance(key, str) else key
    named = refusal.value.details["key"].encode("utf-8", "surrogateescape")
    assert named == data[:128]


@pytest.mark.parametrize("key", ["doc:*", "doc:[a-z]", "doc:?", "doc:\\x", "doc:%d", "doc:.*"])
def test_glob_characters_in_a_key_are_literal(leash: Leash, key: str) -> None:
    """A key is bytes: its stars match nothing but themselves."""
    leash.load(one=READ_WRITE, two={"grants": [grant("read", keys="doc:x")]})

    assert leash.agent("one").set(key, "x") is True
    with pytest.raises(keyleash.KeyNotGrantedError):
        leash.agent("two").get(key)


def test_hash_tag_braces_match_literally(leash: Leash) -> None:
    """`{{` and `}}` are braces, so that cluster hash tags can be granted."""
    leash.load(one={"grants": [grant("read", keys="jobs:{{{job}}}:state")]})
    agent = leash.agent("one")

    assert agent.get("jobs:{7}:state") is None
    with pytest.raises(keyleash.KeyNotGrantedError):
        agent.get("jobs:7:state")
