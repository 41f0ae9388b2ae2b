"""Direct commands of a fenced agent, without the keyleash client."""

from __future__ import annotations

import random
from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from keyleash.commands import load_table
from keyleash.fence import apply as applying
from keyleash.fence.rules import COMMON_COMMANDS, TRANSACTION
from keyleash.store.live_table import read_table
from keyleash.store.users import may
from oracle.arguments import Call, Draws, drawn_call
from oracle.asking import Asker, ask_all
from oracle.placements import ours_of
from support.fences import FencedLeash
from support.leash import NAMES, grant
from support.streams import command_of
from support.thorough import FACTOR

TABLE = load_table()
CALLS_OF_EACH = 4 * FACTOR
BYTES = 40
KEYS = (b"a:1", b"a:2", b"b", b"keyleash:state:two", b"keyleash:fence", b"STREAMS", b"LIMIT")
OF_OTHERS = (
    *(call for call in applying.DENIED_CALLS if call[0] != "DEBUG"),  # by its configuration
    ("RANDOMKEY",), ("DBSIZE",), ("CLIENT", "TRACKING", "ON"),
    ("CLIENT", "KILL", "USER", "two"), ("EVAL_RO", "return 1", "0"), ("FCALL", "f", "0"),
    ("SCRIPT", "EXISTS", "0" * 40), ("WATCH", "b:1"), ("INFO",), ("SELECT", "1"),
    ("MIGRATE", "h", "1", "a:1", "0", "1"), ("MOVE", "a:1", "1"),
    ("COPY", "a:1", "a:2", "DB", "1"),
    ("PFMERGE", "b"), ("PUBSUB", "CHANNELS"), ("PUBLISH", "c", "m"), ("SPUBLISH", "c", "m"),
    ("GET", "keyleash:fence"), ("HGETALL", "keyleash:source:one"),
    ("HGETALL", "keyleash:policy"), ("XADD", "keyleash:control", "*", "f", "v"),
    ("XADD", "keyleash:audit:two", "*", "f", "v"), ("XRANGE", "keyleash:audit:one", "-", "+"),
    ("SET", "keyleash:state:two", "x"), ("SET", "keyleash:state:one", "x"),
    ("DEL", "keyleash:audit:one"), ("HGETALL", "keyleash:guard:two"),
    ("GET", "keyleash:token:two:0"), ("HSET", "keyleash:guard:one", "digest", "x"),
)  # fmt: skip
ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", "scan", keys="a:*")]}


def test_direct_call_touches_granted_keys_only(leash: FencedLeash) -> None:
    """For every command, the server denies the user, or the call touches only granted keys."""
    leash.load(one=ALL, two=ALL)
    leash.fence()
    known = set(read_table(leash.admin).commands)
    draw = random.Random(1 if FACTOR == 1 else None)
    calls = [
        drawn_call(Draws(draw.randbytes(BYTES)), spec, KEYS)
        for spec in TABLE
        if spec.name in known and spec.name not in TABLE.containers
        for _ in range(CALLS_OF_EACH)
    ]
    connection = leash.admin.connection_pool.get_connection()
    replies = ask_all(connection, [(b"ACL", b"DRYRUN", b"one", *call) for call in calls])
    allowed = [call for call, may_ in zip(calls, replies, strict=True) if may_ == b"OK"]
    assert len(allowed) > 100
    suspect = [call for call in allowed if not is_within(call)]
    errors = Asker(leash.server).argument_errors(suspect)
    assert [call for call, error in zip(suspect, errors, strict=True) if error is None] == []


def is_within(call: Call) -> bool:
    """Return whether a call touches only `a:*`, or is allowed to every user."""
    spec = TABLE.find(call)
    assert spec is not None
    if spec.name.lower().replace(" ", "|") in (
        *COMMON_COMMANDS[:-1],
        *TRANSACTION,
        "hello",
        "auth",
        "quit",
        "reset",
    ):
        return True
    keys = ours_of(spec, call)
    return bool(keys) and all(use.key.startswith(b"a:") for use in keys or [])


def test_calls_without_a_grant_are_denied_by_the_server(leash: FencedLeash) -> None:
    """On control keys a user has only the rights that its guard needs."""
    leash.load(one=ALL, two=ALL)
    leash.fence()
    leash.admin.set("a:1", "x")
    direct = leash.direct("one")

    for call in OF_OTHERS:
        with pytest.raises(NoPermissionError):
            direct.execute_command(*call)


def test_own_keys_are_open_to_direct_commands(leash: FencedLeash) -> None:
    """docs/how-to/fence.md documents these limitations."""
    leash.load(one={**ALL, "rate": {"writes": "1/minute"}})
    leash.fence()
    agent, direct = leash.agent("one"), leash.direct("one")

    assert agent.set("a:1", "x")
    assert direct.set("a:1", "y")
    assert [command_of(event) for event in leash.events("one")] == [("SET", "a:1")]
    # Its own counters, token and trail are written by its guard, and so by the agent.
    assert direct.setrange(NAMES.state("one"), 16, b"\0" * 24) > 0
    assert direct.xadd(NAMES.audit("one"), {"SET": "made up"})
    assert agent.set("a:1", "z")


def test_one_user_cannot_call_the_guard_of_another(leash: FencedLeash) -> None:
    """Not even with a token of the other identity; digests are not secret."""
    leash.load(one=ALL, two=ALL)
    leash.fence()
    token = leash.issue("two").token
    call = ("EVALSHA", leash.digest("two"), "1", "a:1", token, "c", "GET", "a:1")

    with pytest.raises(NoPermissionError, match="'evalsha'"):
        leash.direct("one").execute_command(*call)
    assert leash.direct("two").execute_command(*call) is None


def test_server_reads_patterns_as_the_policy_does(leash: FencedLeash) -> None:
    """Special characters of globs and rules are literal in a policy."""
    odd = ["a[b]:*", "c?d", "e*", "f\\g:{x}", "h)", "(i:*", "j]:^:{x}:k)", "é:*", "%R~l:*", "~m"]
    leash.load(one={"grants": [grant("read", "write", keys=odd)]})
    leash.fence()
    agent, direct = leash.agent("one"), leash.direct("one")
    inside = [
        "a[b]:1",
        "c?d",
        "e",
        "e1",
        "f\\g:1",
        "h)",
        "(i:1",
        "j]:^:1:k)",
        "é:1",
        "%R~l:1",
        "~m",
    ]
    outside = ["ab:1", "cxd", "fg:1", "f\\g", "h", "i:1", "j]:^:1:k", "e\u0301:1", "l:1", "m"]

    for key in inside:
        assert agent.set(key, "x")
        assert direct.get(key) == b"x"
    outside.remove("e\u0301:1")  # begins with an `e`
    for key in outside:
        with pytest.raises(NoPermissionError):
            direct.get(key)


def test_filters_of_a_grant_apply_to_direct_commands(leash: FencedLeash) -> None:
    """`only`, `except` and classes limit direct commands, too."""
    leash.load(
        one={
            "grants": [
                grant("read", keys="a:*", only=["GET"]),
                grant("write", keys="b:*", **{"except": ["SET"]}),
                grant("write", "delete", keys="c:*"),
            ]
        }
    )
    leash.fence()
    granted = [("GET", "a:1"), ("APPEND", "b:1", "x"), ("SET", "c:1", "x"), ("DEL", "c:1")]
    refused = [
        ("MGET", "a:1"), ("SET", "a:1", "x"), ("SET", "b:1", "x"), ("DEL", "b:1"), ("GET", "c:1"),
        ("APPEND", "a:1", "x"), ("GETDEL", "c:1"),
    ]  # fmt: skip

    assert [may(leash.admin, "one", *call) for call in granted] == [True] * len(granted)
    assert [may(leash.admin, "one", *call) for call in refused] == [False] * len(refused)


def test_user_cannot_select_another_database(leash: FencedLeash) -> None:
    """Other databases may contain keys of the same names."""
    admin = leash.server.client(db=3)
    leash.admin = admin
    leash.load(one=ALL)
    leash.fence()
    admin.set("a:1", "three")
    agent = leash.agent("one", db=3)

    assert agent.get("a:1") == b"three"
    for database in ("0", "1", "13"):
        with pytest.raises(NoPermissionError):
            leash.direct("one", db=3).execute_command("SELECT", database)
    # A connection begins in database 0, where nothing of this is.
    assert leash.direct("one").get("a:1") is None


def test_batch_and_transaction_work_fenced(leash: FencedLeash) -> None:
    """The batch script of a guard has a digest of its own."""
    leash.load(one=ALL)
    leash.fence()
    agent = leash.agent("one")

    with agent.pipeline() as pipe:
        pipe.set("a:1", "x")
        pipe.incr("a:2")
        assert pipe.execute() == [True, 1]
    assert agent.mget("a:1", "a:2") == [b"x", b"1"]
