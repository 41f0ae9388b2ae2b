"""SCAN, blocking commands, before-images and errors in a sealed guard."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import keyleash
from keyleash.audit.point_in_time import value_at
from keyleash.audit.read import Query
from keyleash.audit.undo.apply import apply_undo
from keyleash.audit.undo.key_plans import plan_undo
from keyleash.text import moment
from support.leash import Leash, grant
from support.streams import command_of
from vault.conftest import ALL


def test_scan_finds_keys_in_the_vault_by_logical_name(sealed: Leash) -> None:
    """With any globs, of which the last counts; keys outside are not found."""
    sealed.load(one={"grants": [grant("read", "write", "scan", keys="*")]})
    agent = sealed.agent("one")
    for name in ("a:1", "a:2", "b:1"):
        agent.set(name, "x")
    sealed.admin.set("a:3", "outside")

    def scanned(*words: Any, client: Any = agent) -> list[bytes]:
        cursor, names = client.execute_command("SCAN", "0", "COUNT", "1000", *words)
        assert int(cursor) == 0
        return sorted(names)

    assert scanned() == [b"a:1", b"a:2", b"b:1"]
    assert scanned("MATCH", "a:*") == [b"a:1", b"a:2"]
    assert scanned("MATCH", "a:*", "match", "b:[0-9]") == [b"b:1"]
    assert scanned("TYPE", "string", "MATCH", "*1") == [b"a:1", b"b:1"]
    assert scanned("MATCH", "x", "TYPE", "string") == []
    pipe = agent.pipeline(transaction=False)
    pipe.scan(match="a:*", count=1000)
    pipe.scan(count=1000)
    assert [sorted(names) for _, names in pipe.execute()] == [
        [b"a:1", b"a:2"],
        [b"a:1", b"a:2", b"b:1"],
    ]
    for words in (("MATCH",), ("MATCH", "a:*", "x")):
        with pytest.raises(redis.ResponseError, match="syntax error"):
            scanned(*words)


ENTRY = [b"a:s", [[b"1-1", [b"f", b"v"]]]]
POPS: list[tuple[tuple[Any, ...], Any]] = [
    (("BLPOP", "a:0", "a:l", "0"), [b"a:l", b"1"]),
    (("BRPOP", "a:l", "0"), [b"a:l", b"3"]),
    (("BLMPOP", "0", "2", "a:0", "a:l", "LEFT"), [b"a:l", [b"1"]]),
    (("BLMOVE", "a:l", "a:9", "LEFT", "RIGHT", "0"), b"1"),
    (("BZPOPMIN", "a:z", "0"), [b"a:z", b"m", b"1"]),
    (("BZMPOP", "0", "1", "a:z", "MIN"), [b"a:z", [[b"m", b"1"]]]),
    (("XREAD", "BLOCK", "1", "STREAMS", "a:0", "a:s", "0", "0"), [ENTRY]),
    (
        ("XREADGROUP", "GROUP", "g", "c", "BLOCK", "1", "STREAMS", "a:s", ">"),
        [ENTRY],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("command", "reply"), POPS, ids=lambda item: str(item[0]))
def test_blocking_command_reads_from_the_vault(
    sealed: Leash, command: tuple[Any, ...], reply: Any
) -> None:
    """Replies contain logical names."""
    admin, vault = sealed.admin, sealed.keyspace.vault
    token = sealed.issue("one").token
    sealed.admin.rpush("a:0", "outside")
    admin.xadd(f"{vault}a:s", {"f": "v"}, id="0-1")
    admin.xgroup_create(f"{vault}a:s", "g")
    admin.xgroup_createconsumer(f"{vault}a:s", "g", "c")
    admin.xdel(f"{vault}a:s", "0-1")

    assert sealed.call("one", token, *command) is None
    assert sealed.events("one") == []
    admin.rpush(f"{vault}a:l", 1, 2, 3)
    admin.zadd(f"{vault}a:z", {"m": 1})
    admin.xadd(f"{vault}a:s", {"f": "v"}, id="1-1")
    assert sealed.call("one", token, *command) == reply
    events = sealed.events("one")
    named = [command_of(event)[1] for event in events if "of" not in event]
    assert [name.startswith(("a:", "3:a:")) for name in named] == [True] * len(named)
    assert vault not in str(events)
    assert admin.lrange("a:0", 0, -1) == [b"outside"]


def test_audited_blocking_read_logs_logical_names(sealed: Leash) -> None:
    """The guard looks for the keys before it writes the event."""
    audit = {"reads": True, "values": "full"}
    sealed.load(one={**ALL, "audit": audit})
    token = sealed.issue("one").token
    sealed.admin.xadd(f"{sealed.keyspace.vault}a:s", {"f": "v"}, id="1-1")

    assert sealed.call("one", token, "XREAD", "BLOCK", "1", "STREAMS", "a:s", "0") is not None
    (event,) = sealed.events("one")
    assert command_of(event) == ("XREAD", "a:s")
    assert "1:0," in event["args"]
    assert sealed.keyspace.vault not in str(event)


def test_option_value_that_looks_like_a_key_is_unchanged(sealed: Leash) -> None:
    """Keys are recognized by position."""
    agent = sealed.agent("one")
    agent.rpush("a:1", "a:1", "a:2")

    assert agent.lpos("a:1", "a:1") == 0
    assert agent.set("a:1", "a:1") is True
    assert agent.get("a:1") == b"a:1"
    agent.sadd("a:s", "a:s")
    assert agent.execute_command("SMOVE", "a:s", "a:t", "a:s") == 1
    assert agent.smembers("a:t") == {b"a:s"}
    agent.rpush("a:l", 2, 1)
    assert agent.execute_command("SORT", "a:l", "STORE", "a:l") == 2
    assert agent.lrange("a:l", 0, -1) == [b"1", b"2"]
    agent.xadd("a:x", {"a:x": "a:x"}, id="1-1")
    assert agent.xrange("a:x") == [(b"1-1", {b"a:x": b"a:x"})]
    assert sealed.call("one", sealed.issue("one").token, "XREAD", "STREAMS", "a:x", "0") == [
        [b"a:x", [[b"1-1", [b"a:x", b"a:x"]]]]
    ]
    assert agent.mget("a:t", "a:none", "a:1", "a:1") == [None, None, b"a:1", b"a:1"]


def test_errors_contain_logical_names(sealed: Leash) -> None:
    """As for a raw call on an open server."""
    restores = grant("write", keys="a:*", only=["RESTORE"])
    sealed.load(one={**ALL, "grants": [*ALL["grants"], restores]})
    agent = sealed.agent("one")
    raw = sealed.server.client()
    agent.xadd("a:s", {"f": "v"}, id="1-1")
    raw.xadd("a:s", {"f": "v"}, id="1-1")
    for client in (agent, raw):
        client.set("a:1", "x")
        client.execute_command("XGROUP", "CREATE", "a:s", "h", "0")
    calls = [
        ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "a:s", ">"),
        ("XREADGROUP", "GROUP", "h", "c", "STREAMS", "a:s", "a:0", ">", ">"),
        ("XPENDING", "a:s", "g"),
        ("XCLAIM", "a:s", "g", "c", "0", "1-1"),
        ("XAUTOCLAIM", "a:s", "g", "c", "0", "0"),
        ("XGROUP", "SETID", "a:s", "g", "0"),
        ("XGROUP", "DELCONSUMER", "a:s", "g", "c"),
        ("XGROUP", "CREATE", "a:s", "h", "0"),
        ("XINFO", "GROUPS", "a:1"),
        ("XINFO", "CONSUMERS", "a:s", "g"),
        ("LPUSH", "a:1", "x"),
        ("RESTORE", "a:1", "0", "x"),
        ("RENAME", "a:none", "a:1"),
    ]
    for call in calls:
        messages = []
        for client in (agent, raw):
            with pytest.raises(redis.ResponseError) as error:
                client.execute_command(*call)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
        assert sealed.keyspace.vault not in messages[0]
    errors = [event["error"] for event in sealed.events("one") if "error" in event]
    assert any("a:s" in error for error in errors)
    assert not any(sealed.keyspace.vault in error for error in errors)


def test_undo_in_the_vault_uses_logical_names(sealed: Leash) -> None:
    """Operators never need a prefix."""
    agent = sealed.agent("one")
    agent.set("a:1", "before")
    then_ms = sealed.store.now_ms()
    while sealed.store.now_ms() <= then_ms + 1:
        pass
    with keyleash.correlation("wrong"):
        agent.set("a:1", "after")
        agent.hset("a:2", "f", "v")

    assert value_at(sealed.store, b"a:1", moment(then_ms)).value.elements == (b"before",)
    done = apply_undo(sealed.store, plan_undo(sealed.store, Query(correlation="wrong")))
    assert done.restored == (b"a:1",)
    assert done.removed == (b"a:2",)
    assert agent.get("a:1") == b"before"
    assert agent.exists("a:2") == 0
    assert not any(sealed.keyspace.vault in str(event) for event in sealed.events("one"))


@pytest.mark.parametrize(
    "command", [("INCRBY", "a:n", 5), ("HINCRBY", "a:h", "f", 5), ("DECR", "a:m"), ("INCR", "a:n")]
)
def test_integer_beyond_a_double_is_exact(sealed: Leash, command: tuple[Any, ...]) -> None:
    """The guard reads it again from the vault."""
    vault, big = sealed.keyspace.vault, 2**60 + 1
    sealed.admin.set(f"{vault}a:n", big)
    sealed.admin.set(f"{vault}a:m", -big)
    sealed.admin.hset(f"{vault}a:h", "f", big)
    expected = -big - 1 if command[0] == "DECR" else big + (5 if len(command) > 2 else 1)

    assert sealed.agent("one").execute_command(*command) == expected


def test_call_with_an_id_is_remembered_with_the_names_of_the_agent(sealed: Leash) -> None:
    """A replayed reply names keys without the prefix of the vault."""
    sealed.load(one={**ALL, "idempotency": {"keep": "1h"}})
    agent = sealed.agent("one")
    agent.rpush("a:l", "1", "2")

    for _ in range(2):
        with keyleash.once("a"):
            assert agent.blpop("a:l", timeout=1) == (b"a:l", b"1")
            assert agent.set("a:k", "v") is True
        with agent.batch(once="b") as batch:
            batch.lpop("a:l")
            batch.set("a:k", "w")
        assert batch.results == [b"2", True]
    assert len(sealed.admin.keys(f"{sealed.keyspace.once_prefix('one')}*")) == 3
