"""A fenced agent gets the same replies through its guard as an unfenced one."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from keyleash.commands import load_table
from keyleash.fence import data_rules, rules
from keyleash.fence.rules import COMMON_COMMANDS, read_server_facts
from keyleash.store.live_table import read_table
from keyleash.store.scripts import lua_root
from oracle.arguments import Call, Draws, drawn_call
from oracle.asking import ask_all
from oracle.placements import ours_of
from support.fences import FencedLeash
from support.leash import grant
from support.thorough import FACTOR

TABLE = load_table()
BYTES = 40
CALLS_OF_EACH = 3 * FACTOR
KEYS = (b"a:s", b"a:n", b"a:h", b"a:l", b"a:set", b"a:z", b"a:x", b"a:new", b"b:s", b"b:l", b"o")
SEEDS: tuple[Call, ...] = (
    (b"UNLINK", *KEYS),
    (b"SET", b"a:s", b"text"), (b"SET", b"b:s", b"text"), (b"SET", b"a:n", b"9007199254740991"),
    (b"HSET", b"a:h", b"f", b"1", b"n", b"9007199254740991"), (b"RPUSH", b"a:l", b"1", b"2"),
    (b"RPUSH", b"b:l", b"1", b"2"), (b"SADD", b"a:set", b"1", b"2"),
    (b"ZADD", b"a:z", b"1", b"m", b"2", b"n"), (b"XADD", b"a:x", b"1-1", b"f", b"v"),
    (b"XGROUP", b"CREATE", b"a:x", b"g", b"0"),
)  # fmt: skip
CHOSEN: tuple[Call, ...] = (
    (b"INCR", b"a:n"), (b"INCRBY", b"a:n", b"5"), (b"DECRBY", b"a:n", b"-7"),
    (b"HINCRBY", b"a:h", b"n", b"3"), (b"SET", b"a:s", b"v", b"GET"), (b"LPOP", b"a:l"),
    (b"BLPOP", b"a:l", b"0"), (b"BLPOP", b"a:new", b"0"), (b"SORT", b"a:l"),
    (b"SORT", b"a:l", b"BY", b"b:*"), (b"SORT_RO", b"a:l", b"GET", b"b:*"),
    (b"BLMOVE", b"a:l", b"b:l", b"LEFT", b"LEFT", b"0"), (b"PFMERGE", b"a:new"),
    (b"GEORADIUS", b"a:z", b"1", b"1", b"1", b"m"),
    (b"GEORADIUSBYMEMBER", b"a:z", b"m", b"1", b"m"),
    (b"BZPOPMIN", b"a:z", b"0"), (b"XREAD", b"BLOCK", b"1", b"STREAMS", b"a:x", b"$"),
    (b"XREADGROUP", b"GROUP", b"g", b"c", b"BLOCK", b"1", b"STREAMS", b"a:x", b">"),
    (b"XREADGROUP", b"GROUP", b"g", b"c", b"STREAMS", b"a:x", b"0"),
    (b"DEL", b"a:s"), (b"HSET", b"a:h", b"f", b"2"), (b"RENAME", b"a:s", b"a:new"),
    (b"PUBLISH", b"c:1", b"m"), (b"PUBLISH", b"other", b"m"), (b"GET", b"o"), (b"PING",),
    (b"MSET", b"a:s", b"1", b"o", b"2"), (b"TIME",), (b"FLUSHALL",),
    (b"SCAN", b"0", b"MATCH", b"a:*"), (b"COPY", b"a:s", b"a:new"),
)  # fmt: skip
VARYING = re.compile(
    b"TIME|.*RAND.*|SPOP|XADD|DUMP|P?TTL|.*EXPIRE|HP?TTL|OBJECT|XINFO|MEMORY|ZRANDMEMBER|RANDOMKEY"
    b"|XCLAIM|XAUTOCLAIM|XPENDING"
    b"|SSCAN|HSCAN|ZSCAN|SMEMBERS|SINTER|SUNION|SDIFF|HGETALL|HKEYS|HVALS|GETEX|HGETEX|V.*"
)
"""Replies that differ from call to call, or in their order: of these only errors are compared."""

EVERY_LIMIT: dict[str, Any] = {
    "rate": {
        "requests": {"limit": "100000/minute", "per": "token"},
        "writes": {"limit": "100000/minute", "burst": 9000},
    },
    "budget": {"reads": {"limit": "100000/day", "per": "{id}"}, "writes": "100000/day"},
}  # fmt: skip
IMAGES = {"before_images": {"max_bytes": "1kb"}, "values": "digest"}
IDENTITIES: dict[str, dict[str, Any]] = {
    "all": {
        "grants": [
            grant("read", "write", "delete", "scan", keys=["a:*", "b:*"]),
            grant("write", keys=["a:*", "b:*"], only=["RESTORE"]),
            {"allow": ["publish"], "channels": ["c:*"]},
        ]
    },
    "recorded": {
        "grants": [grant("read", "write", "delete", keys="a:{id}"), grant("write", keys="b:*")],
        "audit": IMAGES,
        **EVERY_LIMIT,
    },
    "reader": {"grants": [grant("read", keys="a:*")], "rate": {"requests": "100000/minute"}},
    "writer": {
        "grants": [grant("write", "delete", keys="a:*")],
        "deny": [{"keys": ["a:s"]}],
        "audit": {**IMAGES, "retain": {"until": "exported", "hard_max": 100_000}},
    },
    "narrow": {
        "grants": [
            grant("read", "write", "delete", keys="a:*",
                  only=["INCR", "INCRBY", "HINCRBY", "BLPOP", "BLMOVE", "XREADGROUP", "XGROUP"]),
            grant("write", keys="b:*", only=["BLMOVE"]),
        ]
    },
    "split": {
        "grants": [grant("read", keys="a:*"), grant("write", keys=["a:n", "b:*"])],
        "audit": {"retain": "7d"},
    },
}  # fmt: skip


def calls(identity: str, known: set[str]) -> Iterator[Call]:
    """Return random calls of every command of the server, from a fixed seed."""
    draw = random.Random(identity if FACTOR == 1 else None)
    yield from CHOSEN
    for spec in TABLE:
        if spec.name in known and spec.name not in TABLE.containers:
            for _ in range(CALLS_OF_EACH):
                yield drawn_call(Draws(draw.randbytes(BYTES)), spec, KEYS, (b"c:1", b"d"))


def is_refusal(reply: Any) -> bool:
    return isinstance(reply, redis.ResponseError) and str(reply).startswith("LEASH")


def is_not_permitted(reply: Any) -> bool:
    return isinstance(reply, redis.exceptions.NoPermissionError)


def is_denied_pattern(reply: Any) -> bool:
    return bool(re.fullmatch(r"LEASH COMMAND_REFUSED command=SORT\w*%20(BY|GET)", str(reply)))


def in_words(reply: Any) -> str:
    return f"{type(reply).__name__}: {reply}" if isinstance(reply, Exception) else repr(reply)


@pytest.mark.slow
@pytest.mark.parametrize("identity", IDENTITIES)
def test_fenced_agent_gets_the_replies_of_an_unfenced_one(
    leash: FencedLeash, identity: str
) -> None:
    """Except for commands that the fence leaves out, and for patterns, whose replies name that."""
    leash.load(
        json.dumps(
            {"version": 1, "identities": {identity: {"kind": "machine", **IDENTITIES[identity]}}}
        )
    )
    leash.fence()
    token = leash.issue(identity).token.encode()
    begin = [b"EVALSHA", leash.digest(identity).encode()]
    shared = leash.admin.connection_pool.get_connection()
    own = leash.direct(identity).connection_pool.get_connection()
    left_out = read_server_facts([leash.admin]).left_out
    known = set(read_table(leash.admin).commands)
    differing, unpermitted, patterns = [], set(), set()
    for call in calls(identity, known):
        spec = TABLE.find(call)
        keys = [use.key for use in (spec and ours_of(spec, call)) or []]
        guarded = (*begin, b"%d" % len(keys), *keys, token, b"c", *call)
        replies = []
        for connection in (shared, own):
            ask_all(shared, SEEDS)
            replies += ask_all(connection, [guarded])
        any_other, fenced = replies
        if is_not_permitted(fenced) and spec and spec.name in left_out:
            unpermitted.add(spec.name)
        elif spec and spec.patterns and is_denied_pattern(fenced):
            patterns.add(spec.name)
        elif not are_equal(call, any_other, fenced):
            differing.append((call, in_words(any_other), in_words(fenced)))
    assert differing == []
    if identity == "all":
        assert unpermitted >= set(left_out) & known
        assert patterns - unpermitted == {"SORT", "SORT_RO"} - unpermitted


def are_equal(call: Call, first: Any, second: Any) -> bool:
    if is_not_permitted(second) and isinstance(first, Exception) and not is_refusal(first):
        # The command is wrong in itself, and the server sees second keys in it.
        return True
    if isinstance(first, Exception) or isinstance(second, Exception):
        return in_words(first) == in_words(second)
    return VARYING.fullmatch(call[0].upper()) is not None or first == second


def test_fence_allows_every_command_that_guards_run() -> None:
    """A new call in a guard's source needs a rule, or fenced agents are denied."""
    found = set()
    for text in guard_sources():
        found |= set(re.findall(r"\bp?call\('([A-Z]+)'(?:, '([A-Z]+)')?", text))
        found |= {("XADD", "")} if "{ 'XADD'" in text else set()
        if "call(kind == 'hash' and 'HGETALL' or 'SMEMBERS'" in text:
            found |= {("HGETALL", ""), ("SMEMBERS", "")}
    granted = {
        *map(str.upper, (*rules.STATE, *rules.LIMIT, *rules.REPEATS, *rules.SUSPENSION)),
        *map(str.upper, (*rules.BREAKER, *rules.SCRATCH)),
        *map(str.upper, (*rules.CHILD_RECORDS, *rules.CHILD_ENTRIES)),
        *map(str.upper, (*rules.DELEGATIONS, *rules.CHILDREN)),
        *map(str.upper, COMMON_COMMANDS),
        *data_rules.HELPERS, "XADD", "XTRIM", "XLEN",
    }  # fmt: skip
    names = {f"{name} {sub}" if f"{name} {sub}" in TABLE.commands else name for name, sub in found}
    assert names <= granted
    assert len(names) > 20


def guard_sources() -> list[str]:
    """Return the sources of both scripts of a guard, with all partials."""
    root = lua_root() / "guard"
    waiting, seen, texts = ["guard.lua", "batch.lua"], set(), []
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            texts.append((root / name).read_text())
            for beginning in re.findall(r'(?:cached_)?include "([\w/]+)', texts[-1]):
                exact = root / f"{beginning}.lua"
                found = [exact] if exact.exists() else root.glob(f"{beginning}*.lua")
                waiting += [str(path.relative_to(root)) for path in found]
    return texts
