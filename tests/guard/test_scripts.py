"""Approved scripts, run in a guard on every server."""

from __future__ import annotations

from typing import Any

import pytest
import redis
import redis.asyncio

import keyleash
from client.alike import awaiting
from keyleash.audit.read import Query, read_denials, read_events
from keyleash.audit.undo.apply import apply_undo
from keyleash.audit.undo.key_plans import plan_undo
from keyleash.commands.locks import EXTEND, RELEASE
from keyleash.errors.sentences import reason_of
from keyleash.policy.scripts import stored_texts
from keyleash.store.keyspace import script_digest
from keyleash.store.records import guard_record, read_active
from support.clustered import NODES
from support.leash import NAMES, Leash
from support.scripted import (
    COUNT,
    LIBRARIES,
    MOVE,
    PEEK,
    REPLIES,
    SORTED,
    TEXTS,
    WRITE_AND_FAIL,
    ScriptLeash,
    scripted,
)
from support.servers import RealServer


@pytest.fixture
def leash(server: RealServer) -> ScriptLeash:
    leash = ScriptLeash(server)
    leash.approve(audit={"values": "full"})
    return leash


@pytest.fixture
def one_leash(embedded: RealServer) -> ScriptLeash:
    leash = ScriptLeash(embedded)
    leash.approve()
    return leash


def test_script_runs_as_on_a_raw_connection(leash: ScriptLeash) -> None:
    """EVAL, EVALSHA, and redis-py's Script."""
    client = leash.redis()
    client.rpush("app:{d}from", "a", "b", "c")

    assert client.eval(MOVE, 2, "app:{d}from", "app:{d}to", 2, "!") == [b"a", b"b"]
    assert client.evalsha(script_digest(MOVE).upper(), 2, "app:{d}from", "app:{d}to", 5, "?") == [
        b"c"
    ]
    assert client.lrange("app:{d}to", 0, -1) == [b"a!", b"b!", b"c?"]
    script = client.register_script(COUNT)
    assert [script(keys=["app:{d}n"]) for _ in range(3)] == [1, 2, 3]


def test_replies_are_those_of_a_raw_connection(leash: ScriptLeash) -> None:
    """Numbers, nulls, nested arrays, status replies and texts."""
    raw = leash.admin.eval(REPLIES, 1, "app:{d}none", "x", "y")

    assert leash.redis().eval(REPLIES, 1, "app:{d}none", "x", "y") == raw


def test_libraries_do_what_those_of_a_raw_connection_do(leash: ScriptLeash) -> None:
    """Numbers as patterns and texts as numbers, places in lists, comparisons and errors."""
    raw = leash.admin.eval(LIBRARIES, 0)

    assert leash.redis().eval(LIBRARIES, 0) == raw
    assert len(raw) == 11


def test_event_of_a_script_has_its_commands_in_their_order(leash: ScriptLeash) -> None:
    """One event, in which an undo and a history find each command with its key."""
    client = leash.redis()
    client.rpush("app:{d}from", "a")
    client.eval(MOVE, 2, "app:{d}from", "app:{d}to", 1, "!")
    client.eval(PEEK, 1, "app:{d}none")

    assert leash.recorded() == [
        ("", "RPUSH", (b"app:{d}from",), None),
        ("s0", "LPOP", (b"app:{d}from",), None),
        ("s0", "RPUSH", (b"app:{d}to",), None),
    ]


def test_what_a_failed_script_wrote_stands_and_is_recorded(leash: ScriptLeash) -> None:
    """As in Redis, where a script is not rolled back."""
    client = leash.redis()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.eval(WRITE_AND_FAIL, 1, "app:{d}a", "left")

    assert client.get("app:{d}a") == b"left"
    (_, first, _, none), (_, second, _, error) = leash.recorded()
    assert (first, none, second) == ("SET", None, "LPUSH")
    assert error is not None
    assert error.startswith("WRONGTYPE")


def test_inner_denial_is_recorded_and_never_lands(leash: ScriptLeash) -> None:
    """A script may look at it by `pcall`."""
    client = leash.redis()

    reply = client.eval(SORTED, 1, "app:{d}x", "other:{d}x")
    assert reply == b"LEASH KEY_NOT_GRANTED key=other:%7Bd%7Dx"
    assert leash.admin.exists("other:{d}x") == 0
    (denial,) = read_denials(leash.store, ["one"])
    assert (denial.code, denial.op, denial.keys) == ("KEY_NOT_GRANTED", "SET", (b"other:{d}x",))
    assert client.eval(SORTED, 1, "app:{d}x", "app:{d}x") == b"allowed"


def test_declared_key_that_is_not_granted_denies_the_script(leash: ScriptLeash) -> None:
    """Before it starts: the first key is not changed."""
    client = leash.redis()
    client.rpush("app:{d}from", "a")
    with pytest.raises(keyleash.KeyNotGrantedError):
        client.eval(MOVE, 2, "app:{d}from", "other:{d}to", 1, "!")
    assert client.llen("app:{d}from") == 1


def test_script_of_another_text_is_denied_with_its_digest(one_leash: ScriptLeash) -> None:
    """A blank more is another script; the reason says how to approve it."""
    client = one_leash.redis()
    text = COUNT + " "
    script: Any = client.register_script(text)
    attempts: list[Any] = [
        lambda: client.eval(text, 1, "app:{d}n"),
        lambda: client.evalsha(script_digest(text), 1, "app:{d}n"),
        lambda: client.script_load(text),
        lambda: script(["app:{d}n"]),
    ]
    for call in attempts:
        with pytest.raises(keyleash.CommandRefusedError, match="approves") as caught:
            call()
        assert caught.value.details["script"] == script_digest(text)
        assert "`scripts`" in reason_of(caught.value).operator
    assert client.script_load(COUNT) == script_digest(COUNT)
    assert client.script_exists(script_digest(COUNT), script_digest(text)) == [True, False]


def test_guard_itself_denies_a_script_of_another_digest(one_leash: ScriptLeash) -> None:
    """A client in another language may send any digest."""
    record = guard_record(one_leash.admin.hgetall(NAMES.guard("one")))
    assert record is not None
    token = one_leash.issue("one").token
    for digest in (script_digest("return 1"), "", "x" * 5000):
        reply = one_leash.raw("one", [], token, "", digest, digest=record.approved_digest)
        assert reply.startswith("LEASH COMMAND_REFUSED script=")


def test_limits_count_a_script_once(embedded: RealServer) -> None:
    """As one call that reads, writes or deletes if one of its commands may."""
    leash = ScriptLeash(embedded)
    leash.approve(budget={"requests": "4/day", "writes": "2/day"})
    client = leash.redis()
    client.eval(MOVE, 2, "app:{d}from", "app:{d}to", 1, "!")
    client.eval(PEEK, 1, "app:{d}n")
    client.eval(COUNT, 1, "app:{d}n")
    with pytest.raises(keyleash.BudgetExhaustedError, match="writes"):
        client.eval(COUNT, 1, "app:{d}n")
    client.eval(PEEK, 1, "app:{d}n")
    with pytest.raises(keyleash.BudgetExhaustedError, match="requests"):
        client.eval(PEEK, 1, "app:{d}n")
    assert leash.admin.get("app:{d}n") == b"1"


def test_script_in_pipelines_runs_in_its_order(one_leash: ScriptLeash) -> None:
    """Each is checked alone, as those of a transaction are not."""
    client = one_leash.redis()
    script = client.register_script(COUNT)
    with client.pipeline(transaction=False) as pipe:
        pipe.set("app:{d}n", 5)
        script(keys=["app:{d}n"], client=pipe)
        pipe.get("app:{d}n")
        pipe.eval("return 1", 0)
        pipe.get("app:{d}n")
        replies = pipe.execute(raise_on_error=False)
    assert replies[:3] == [True, 6, b"6"]
    assert isinstance(replies[3], keyleash.CommandRefusedError)
    assert replies[4] == b"6"


def test_script_runs_over_asyncio(one_leash: ScriptLeash) -> None:
    with awaiting() as runner:
        client = one_leash.redis(runner)
        assert client.eval(COUNT, 1, "app:{d}n") == 1
        with pytest.raises(keyleash.CommandRefusedError, match="approves"):
            client.eval("return 1", 0)


def test_lost_guard_of_scripts_is_loaded_again(embedded: RealServer) -> None:
    """As the other scripts of the identity; the script runs once."""
    leash = ScriptLeash(embedded)
    leash.approve()
    token = leash.issue("one").token
    pooled = None if NODES else keyleash.pool(embedded.url, token)
    client: Any = redis.Redis(connection_pool=pooled) if pooled else leash.client(token)
    client.eval(COUNT, 1, "app:{d}n")
    leash.admin.script_flush()
    assert client.eval(COUNT, 1, "app:{d}n") == 2


def test_stored_policy_has_the_texts_of_its_scripts(one_leash: ScriptLeash) -> None:
    """A rollback and `doctor` need no files."""
    active = read_active(one_leash.store)
    assert active is not None
    assert sorted(stored_texts(active.document).values()) == sorted(TEXTS)


def test_identity_without_scripts_has_no_guard_of_scripts(embedded: RealServer) -> None:
    """Neither in the record nor on the server."""
    leash = Leash(embedded)
    leash.load(one={"grants": [{"allow": ["read", "write", "delete"], "keys": ["app:*"]}]})
    record = guard_record(leash.admin.hgetall(NAMES.guard("one")))
    assert record is not None
    assert (record.approved_digest, record.approved) == ("", "")
    assert leash.admin.hlen(NAMES.source("one")) == (3 if NODES else 2)


def test_undo_reverts_what_a_script_changed(embedded: RealServer) -> None:
    """With the before-image of each key, read before its first change."""
    leash = ScriptLeash(embedded)
    leash.approve(audit={"before_images": {"max_bytes": "64kb"}})
    client = leash.redis()
    leash.admin.rpush("app:{d}from", "a", "b")
    client.eval(MOVE, 2, "app:{d}from", "app:{d}to", 2, "!")
    changes = {
        change.key: change.before
        for event in read_events(leash.store, ["one"])
        for change in event.changes
    }
    assert set(changes) == {b"app:{d}from", b"app:{d}to"}
    plan = plan_undo(leash.store, Query(since_ms=0), identity="one")
    apply_undo(leash.store, plan)
    assert leash.admin.lrange("app:{d}from", 0, -1) == [b"a", b"b"]
    assert leash.admin.exists("app:{d}to") == 0


FEATURES: dict[str, dict[str, Any]] = {
    "breaker": {"on_denials": {"threshold": "3/minute", "suspend": "10m"}},
    "full audit": {"audit": {"retain": {"until": "exported", "hard_max": 1000}}},
    "reads": {"audit": {"reads": True, "values": "digest", "mask_keys": ["app:secret:*"]}},
    "source": {"audit": {"source": True}},
    "images and masks": {
        "audit": {"before_images": {"max_bytes": "1kb"}, "mask_keys": ["app:secret:*"]}
    },
    "deny": {"deny": [{"keys": ["app:denied:*"]}]},
    "limits": {
        "rate": {
            "requests": {"limit": "100/second", "burst": 100},
            "reads": {"limit": "100/minute", "per": "token"},
            "writes": "100/hour",
            "deletes": "100/day",
        },
        "budget": {
            "requests": "100/day",
            "reads": {"limit": "100/day", "per": "token"},
            "writes": {"limit": "100/month", "timezone": "Europe/Berlin"},
            "deletes": "100/hour",
        },
    },
    "idle tokens": {"token": {"ttl": "1h", "idle": "10m"}},
}


@pytest.mark.parametrize("rules", FEATURES.values(), ids=FEATURES)
def test_scripts_run_beside_every_feature_of_a_policy(
    embedded: RealServer, rules: dict[str, Any]
) -> None:
    """Each brings text and local variables of its own into the guard."""
    leash = ScriptLeash(embedded)
    leash.approve(**rules)
    client = leash.redis()
    client.rpush("app:secret:{d}from", "a", "b")

    assert client.eval(MOVE, 2, "app:secret:{d}from", "app:{d}to", 2, "!") == [b"a", b"b"]
    assert client.eval(SORTED, 1, "app:{d}x", "other:{d}x").startswith(b"LEASH KEY_NOT_GRANTED")
    assert client.eval(COUNT, 1, "app:{d}n") == 1
    if "deny" in rules:
        assert client.eval(SORTED, 1, "app:{d}x", "app:denied:{d}x").startswith(b"LEASH KEY_DENIED")


def test_denials_within_a_script_suspend_the_identity(embedded: RealServer) -> None:
    """The script ends, and the next call is denied."""
    leash = ScriptLeash(embedded)
    leash.approve(on_denials={"threshold": "3/minute", "suspend": "10m"})
    client = leash.redis()
    for _ in range(3):
        client.eval(SORTED, 1, "app:{d}x", "other:{d}x")
    with pytest.raises(keyleash.SuspendedError):
        client.eval(PEEK, 1, "app:{d}n")


def test_full_audit_stream_denies_a_script_that_may_write(embedded: RealServer) -> None:
    """Before it starts; one that only reads runs."""
    leash = ScriptLeash(embedded)
    leash.approve(audit={"retain": {"until": "exported", "hard_max": 1}})
    client = leash.redis()
    client.eval(COUNT, 1, "app:{d}n")
    with pytest.raises(keyleash.AuditFullError):
        client.eval(COUNT, 1, "app:{d}n")
    assert client.eval(PEEK, 1, "app:{d}n") == b"1"


def test_masked_key_of_a_script_is_masked_in_its_event(embedded: RealServer) -> None:
    leash = ScriptLeash(embedded)
    leash.approve(audit={"mask_keys": ["app:secret:*"]})
    leash.redis().eval(COUNT, 1, "app:secret:{d}n")
    ((_, _, (key,), _),) = leash.recorded()
    assert key.startswith(b"app:secret:#")
    assert b"secret:n" not in repr(leash.admin.xrange(NAMES.audit("one"))).encode()


def test_doctor_finds_nothing_wrong_with_scripts(embedded: RealServer) -> None:
    """The stored policy makes the same guard again, and its texts are stored and loaded."""
    leash = ScriptLeash(embedded)
    leash.approve(rate={"writes": "100/minute"}, budget={"requests": "100/day"})
    with keyleash.Operator.from_url(leash.server.url, actor="ops") as operator:
        found = operator.doctor().findings
    codes = {item.code for item in found}
    assert not {code for code in codes if "script" in code or "guard" in code}, found


@pytest.mark.parametrize(
    "arguments",
    [*([COUNT, keys, "app:{d}n"] for keys in ("5", " 1", "-1", "1.5", "x")), [COUNT], []],
)
def test_number_of_keys_that_is_none_is_denied(one_leash: Leash, arguments: list[str]) -> None:
    """The reason is the error of a server, which does not run such a call either."""
    client = scripted(one_leash, COUNT)
    with pytest.raises(redis.ResponseError) as raw:
        one_leash.node.execute_command("EVAL", *arguments)
    with pytest.raises(keyleash.CommandRefusedError) as denied:
        client.execute_command("EVAL", *arguments)
    assert denied.value.details["reason"].endswith(f": {raw.value}")
    assert one_leash.admin.get("app:{d}n") is None


def test_script_that_is_not_approved_is_denied_with_its_digest(one_leash: ScriptLeash) -> None:
    """A last newline makes another text, and the help says so."""
    with pytest.raises(keyleash.CommandRefusedError) as denied:
        one_leash.redis().eval(COUNT + "\n", 1, "app:{d}n")
    reason = reason_of(denied.value)
    why = f"no grant approves the script {script_digest(COUNT + chr(10))}"
    assert reason.sentence == f"the script is not allowed: {why}"
    assert reason.operator.startswith(why)
    assert "a last newline" in reason.operator


@pytest.mark.parametrize("command", ["SCRIPT", "SCRIPT FLUSH", "SCRIPT KILL", "FCALL f 0"])
def test_command_of_scripts_that_no_policy_allows_is_denied_as_such(
    one_leash: ScriptLeash, command: str
) -> None:
    """An entry of `scripts` would not help."""
    with pytest.raises(keyleash.CommandRefusedError) as denied:
        one_leash.redis().execute_command(*command.split())
    assert "no policy can allow it" in reason_of(denied.value).operator


def test_script_is_charged_for_what_options_of_its_commands_do(one_leash: Leash) -> None:
    """SORT reads, and writes with STORE."""
    sort = "return redis.call('SORT', KEYS[1], 'STORE', KEYS[2])"
    client = scripted(one_leash, sort, budget={"writes": "1/day"})
    one_leash.admin.rpush("app:{d}l", 2, 1)
    assert client.eval(sort, 2, "app:{d}l", "app:{d}s") == 2
    with pytest.raises(keyleash.BudgetExhaustedError):
        client.eval(sort, 2, "app:{d}l", "app:{d}s")


def test_operand_of_a_script_is_one_value(one_leash: Leash) -> None:
    """A function that returns two is cut to the first, as in Lua."""
    text = "return 'app:' .. ('A-B'):gsub('-', ':') .. string.upper('x')"
    assert scripted(one_leash, text).eval(text, 0) == b"app:A:BX"


def test_lock_with_wrong_arguments_is_an_error_of_its_call(one_leash: Leash) -> None:
    """The connection stays usable for locks."""
    one_leash.load(one={"grants": [{"allow": ["read", "write", "delete"], "keys": ["t:*"]}]})
    client: Any = one_leash.agent("one")
    lock = client.lock("t:lock", timeout=10)
    lock.acquire()
    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.evalsha(EXTEND, 1, "t:lock", lock.local.token, "abc", "0")
    with pytest.raises(redis.ResponseError, match="too few"):
        client.evalsha(RELEASE, 0)
    assert lock.reacquire() is True
    lock.release()


def test_denied_command_of_a_script_has_its_own_reason(one_leash: Leash) -> None:
    """The script is approved; its command is not for agents."""
    client = scripted(one_leash, "return redis.call('FLUSHALL')")
    with pytest.raises(keyleash.CommandRefusedError) as denied:
        client.eval("return redis.call('FLUSHALL')", 0)
    assert denied.value.details["command"] == "FLUSHALL"
    assert denied.value.details["reason"] == "it deletes the keys of all clients"


def test_keys_in_a_script_lists_what_it_lists_outside(server: RealServer) -> None:
    """By rounds of SCAN, so that its pattern must lie within a grant for it."""
    leash = ScriptLeash(server)
    text = "return redis.call('keys', ARGV[1])"
    client = scripted(leash, text, {"allow": ["scan"], "keys": ["app:*"]})
    written = {f"app:{number}".encode() for number in range(1200)}
    for key in written:
        client.set(key, 1)

    found = client.eval(text, 0, "app:*")
    assert len(found) == len(written)
    assert {*found} == written
    assert client.eval(text, 0, "app:1?") == client.keys("app:1?") or len(found) > 10
    with pytest.raises(redis.ResponseError, match="KEY_NOT_GRANTED"):
        client.eval(text, 0, "*")
