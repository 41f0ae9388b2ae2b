"""The expiry by default: which calls give it to keys, and which leave keys as they were."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import redis

from keyleash.commands import known_table
from keyleash.commands.writes import IDLE, written_by
from support.leash import Leash
from support.scripted import scripted
from support.servers import RealServer

RULES: dict[str, Any] = {"values": {"ttl": {"default": "1h", "max": "1d"}}}
CALL = "return redis.pcall(unpack(ARGV))"
IDLE_CALLS: tuple[tuple[str, ...], ...] = (
    ("SETNX", "k:{d}text", "v"),
    ("SET", "k:{d}text", "v", "NX"),
    ("SET", "k:{d}text", "v", "NX", "GET"),
    ("SET", "k:{d}text", "v", "EX"),
    ("SET", "k:{d}text", "v", "EX", "9", "NX"),
    ("MSETNX", "k:{d}new", "1", "k:{d}text", "2"),
    ("RENAMENX", "k:{d}other", "k:{d}text"),
    ("COPY", "k:{d}other", "k:{d}text"),
    ("RENAME", "k:{d}none", "k:{d}text"),
    ("LMOVE", "k:{d}none", "k:{d}list", "LEFT", "LEFT"),
    ("RPOPLPUSH", "k:{d}none", "k:{d}list"),
    ("SMOVE", "k:{d}none", "k:{d}set", "b"),
    ("HSETNX", "k:{d}hash", "f", "w"),
    ("EXPIRE", "k:{d}text", "9", "XX"),
    ("PEXPIREAT", "k:{d}text", "9000000000000", "GT"),
    ("GETEX", "k:{d}text"),
    ("LPUSH", "k:{d}text", "x"),
    ("RPUSHX", "k:{d}text", "x"),
    ("LINSERT", "k:{d}list", "BEFORE", "none", "x"),
    ("INCR", "k:{d}text"),
    ("HSET", "k:{d}text", "f", "v"),
    ("SADD", "k:{d}set", "a"),
    ("ZADD", "k:{d}scores", "NX", "2", "a"),
    ("ZADD", "k:{d}scores", "CH", "1", "a"),
    ("ZADD", "k:{d}scores", "NX", "INCR", "1", "a"),
    ("PFADD", "k:{d}sketch", "a"),
    ("XACK", "k:{d}stream", "none", "1-1"),
    ("XADD", "k:{d}stream", "1-1", "f", "v"),
)
WRITING_CALLS: tuple[tuple[str, ...], ...] = (
    ("SET", "k:{d}text", "v", "GET"),
    ("SETBIT", "k:{d}text", "1000", "0"),
    ("HSET", "k:{d}hash", "f", "w"),
    ("ZADD", "k:{d}scores", "2", "a"),
    ("ZADD", "k:{d}scores", "INCR", "-1", "a"),
    ("BITFIELD", "k:{d}text", "SET", "u8", "2000", "1"),
    ("LSET", "k:{d}list", "0", "b"),
    ("PFMERGE", "k:{d}sketch"),
    ("SADD", "k:{d}set", "c"),
    ("COPY", "k:{d}other", "k:{d}text", "REPLACE"),
)
NEW_CALLS: tuple[tuple[str, ...], ...] = (
    ("BITFIELD", "k:{d}text", "OVERFLOW", "FAIL", "INCRBY", "u1", "100", "2"),
    ("HINCRBY", "k:{d}hash", "f", "9223372036854775808"),
    ("HINCRBYFLOAT", "k:{d}hash", "f", "inf"),
    ("HSETEX", "k:{d}hash", "FXX", "EX", "9", "FIELDS", "1", "f", "v"),
    ("HSETEX", "k:{d}hash", "FNX", "EX", "9", "FIELDS", "1", "f", "v"),
    ("HEXPIRE", "k:{d}hash", "9", "FIELDS", "1", "f"),
    ("INCRBYFLOAT", "k:{d}text", "inf"),
    ("SETRANGE", "k:{d}text", "536870912", "x"),
    ("XADD", "k:{d}stream", "0-0", "f", "v"),
    ("XADD", "k:{d}stream", "NOMKSTREAM", "1-1", "f", "v"),
    ("XGROUP", "CREATE", "k:{d}stream", "g", "none", "MKSTREAM"),
    ("ZADD", "k:{d}scores", "INCR", "nan", "a"),
    ("ZADD", "k:{d}scores", "GT", "CH", "0", "a"),
    ("ZADD", "k:{d}scores", "NX", "INCR", "0", "a"),
    ("GEOADD", "k:{d}scores", "XX", "CH", "1", "1", "a"),
    ("GEOADD", "k:{d}scores", "NX", "200", "1", "a"),
    ("PFADD", "k:{d}sketch"),
    ("PFMERGE", "k:{d}sketch", "k:{d}none"),
    ("SETNX", "k:{d}text", ""),
    ("HSETNX", "k:{d}hash", "f", ""),
    ("VADD", "k:{d}text", "VALUES", "2", "1", "1", "a"),
    ("VADD", "k:{d}text", "REDUCE", "9", "VALUES", "2", "1", "1", "a"),
    ("VADD", "k:{d}text", "VALUES", "2", "nan", "1", "a"),
)
KEYS = b"hash list other scores set sketch stream text".split()


def alone(agent: Any, call: tuple[str, ...]) -> None:
    with suppress(redis.ResponseError):
        agent.execute_command(*call)


def in_batch(agent: Any, call: tuple[str, ...]) -> None:
    pipe = agent.pipeline(transaction=False)
    pipe.execute_command(*call)
    pipe.get("k:{d}none")
    pipe.execute(raise_on_error=False)


def in_run(agent: Any, call: tuple[str, ...]) -> None:
    pipe = agent.pipeline(transaction=False)
    pipe.execute_command(*call)
    pipe.execute_command(*call)
    pipe.execute(raise_on_error=False)


def in_script(agent: Any, call: tuple[str, ...]) -> None:
    with suppress(redis.ResponseError):
        agent.eval(CALL, 1, "k:{d}text", *call)


Way = Callable[[Any, tuple[str, ...]], None]
WAYS = pytest.mark.parametrize("call_by", [alone, in_batch, in_run, in_script])


def of_another_program(leash: Leash) -> None:
    """Write keys of each type without an expiry, as a program without a guard does."""
    admin = leash.at("{d}")
    admin.delete("k:{d}new", *(b"k:{d}" + name for name in KEYS))
    admin.mset({"k:{d}text": "old", "k:{d}other": "other"})
    admin.rpush("k:{d}list", "a")
    admin.hset("k:{d}hash", "f", "v")
    admin.sadd("k:{d}set", "a")
    admin.zadd("k:{d}scores", {"a": 1})
    admin.pfadd("k:{d}sketch", "a")
    admin.xadd("k:{d}stream", {"f": "v"}, id="2-1")


def with_expiry(leash: Leash) -> set[bytes]:
    """Return the names of the keys that have an expiry."""
    admin = leash.at("{d}")
    return {name for name in KEYS if admin.pttl(b"k:{d}" + name) >= 0}


@WAYS
def test_call_that_changes_nothing_gives_no_key_an_expiry(server: RealServer, call_by: Way) -> None:
    """A key of another program without an expiry would be deleted an hour later."""
    leash = Leash(server)
    agent = scripted(leash, CALL, keys=["k:*"], narrowed=RULES)
    changed = {}
    for call in IDLE_CALLS:
        of_another_program(leash)
        call_by(agent, call)
        if found := with_expiry(leash):
            changed[call] = found
    assert changed == {}


@WAYS
def test_call_that_writes_gives_its_key_an_expiry(server: RealServer, call_by: Way) -> None:
    """Also one whose reply is null, or zero, although it wrote."""
    leash = Leash(server)
    agent = scripted(leash, CALL, keys=["k:*"], narrowed=RULES)
    for call in WRITING_CALLS:
        of_another_program(leash)
        call_by(agent, call)
        assert with_expiry(leash) == {
            call[2 if call[0] == "COPY" else 1].removeprefix("k:{d}").encode()
        }, call
    leash.at("{d}").delete("k:{d}text")
    call_by(agent, ("SET", "k:{d}text", "v", "NX", "GET"))
    assert with_expiry(leash) == {b"text"}


@WAYS
def test_call_leaves_no_new_key_without_an_expiry(server: RealServer, call_by: Way) -> None:
    """BITFIELD makes a string even if no field can be changed, and replies null."""
    leash = Leash(server)
    agent = scripted(leash, CALL, keys=["k:*"], narrowed=RULES)
    admin: Any = leash.at("{d}")
    left = {}
    for call in (*IDLE_CALLS, *WRITING_CALLS, *NEW_CALLS):
        admin.delete("k:{d}new", *(b"k:{d}" + name for name in KEYS))
        call_by(agent, call)
        found = {name for name in admin.scan_iter("k:*") if admin.pttl(name) == -1}
        if found:
            left[call] = found
            admin.delete(*found)
    assert left == {}


def test_every_command_with_such_replies_writes() -> None:
    """A name without effect in the table would be a mistake."""
    known = {spec.name for spec in known_table() if written_by(spec) is not None}
    assert set(IDLE) - known == set()
