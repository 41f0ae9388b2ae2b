"""Rules for values: bytes and elements of keys, their expiry, and keys that must be absent."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import redis

import keyleash
from keyleash.commands import OperationClass, load_table
from keyleash.commands.keys import keys_of
from keyleash.commands.writes import Writes, written_by
from keyleash.evaluate.evaluate import decide
from keyleash.evaluate.trace import Decision
from keyleash.policy import parse_policy
from keyleash.store.store import Store
from keyleash.store.wire import declared_keys, refusal
from proofs.oracle.data import model_state
from support.leash import NAMES, Leash, policy
from support.servers import RealServer
from support.written import (
    BYTES,
    MAX_MS,
    RULES,
    Rules,
    Writer,
    drawn_rules,
    grants,
    payloads,
    violations,
)

IDENTITY: dict[str, Any] = {"grants": grants(), "limits": {"work": 1_000_000}}


def writer(leash: Leash, seed: int) -> Writer:
    return Writer(random.Random(seed), leash.admin.time()[0], payloads(leash.admin))


def write(leash: Leash, count: int, seed: int = 1, rules: Rules = RULES) -> tuple[int, set[str]]:
    """Write at random, alone and in batches; return the number of allowed calls and their names."""
    leash.load(one={**IDENTITY, "grants": grants(rules)})
    token = leash.issue("one").token
    draws = writer(leash, seed)
    allowed, names, written = 0, set(), 0
    while written < count:
        size = draws.random.choice((1, 1, 1, 2, 5, 12))
        calls = [
            call for call in (draws.call() for _ in range(size))
            if call[0] in leash.server.table.commands
        ]  # fmt: skip
        written += size
        mode = draws.random.choice(("each", "each", "all"))
        if len(calls) == 1:
            replies: Any = [leash.call("one", token, *calls[0])]
        else:
            replies = leash.batch("one", token, mode, *calls)
        found = [*violations(leash.at("{d}"), rules)]
        assert found == [], ([*zip(calls, replies, strict=False)], rules)
        if isinstance(replies, str):
            continue
        for call, reply in zip(calls, replies, strict=True):
            if not isinstance(reply, str) or not reply.startswith("LEASH"):
                allowed += 1
                names.add(call[0])
            else:
                assert "VALUE_" in reply or "WORK_" in reply, (call, reply)
    return allowed, names


def test_random_writes_leave_no_value_that_a_rule_forbids(server: RealServer) -> None:
    """All commands that write, alone and in batches; a scan after each call."""
    allowed, names = write(Leash(server), 300)

    assert allowed > 100
    assert len(names) > 40


@pytest.mark.parametrize(
    ("rounds", "count"), [(3, 60), pytest.param(100, 400, marks=pytest.mark.slow)]
)
def test_random_writes_under_random_rules_break_none(
    server: RealServer, rounds: int, count: int
) -> None:
    """The same for rules of each size, of which two may concern a key."""
    leash = Leash(server)
    for seed in range(rounds):
        for key in leash.at("{d}").keys("[vwfo]:*"):
            leash.at("{d}").delete(key)
        write(leash, count, seed, drawn_rules(random.Random(seed)))


@pytest.mark.slow
def test_ten_thousand_writes_leave_no_value_that_a_rule_forbids(server: RealServer) -> None:
    """The same, for longer."""
    write(Leash(server), 10_000, seed=random.randrange(10**9))


UNSURE = {
    "PFADD",
    "PFMERGE",
    "INCRBYFLOAT",
    "HINCRBYFLOAT",
    "LPUSHX",
    "RPUSHX",
    "LINSERT",
    "INCR",
    "RESTORE",
}
"""Commands that are denied where only the server knows what they would leave."""


def breaks(leash: Leash, trial: Any, call: tuple[Any, ...]) -> bool | None:
    """Return whether a call of an unguarded client breaks a rule; None if it fails."""
    trial.flushdb()
    leash.admin.eval(
        "for _, key in ipairs(redis.call('KEYS', '[vwfo]:*')) do"
        " redis.call('COPY', key, key, 'DB', 1) end",
        0,
    )
    present = {*trial.keys("o:*")}
    had = {key: trial.pttl(key) for key in trial.scan_iter("v:*")}
    try:
        reply = trial.execute_command(*call)
        if not reply:
            # It did nothing, such as SETNX of a key that exists; a guard judges what it would do.
            return None
    except redis.ResponseError:
        return None
    spec = leash.server.table.find([str(call[0]).encode(), str(call[1]).encode()])
    assert spec is not None
    uses = keys_of(
        spec,
        [str(word).encode("latin-1") if not isinstance(word, bytes) else word for word in call],
    )
    written = {use.key for use in uses if OperationClass.WRITE in use.needs}
    # A longer expiry that a key brings along is shortened.
    carries = call[0] in ("COPY", "RENAME", "RENAMENX")
    removes = call[0] == "PERSIST" or call[2:] == ("PERSIST",)
    return bool(
        [item for item in violations(trial, expiry=False) if not (carries and "lives" in item)]
        or written & present
        or (removes and any(key in written for key in had))
        or (any(word.startswith(b"v:") for word in written) and asks_too_long(leash, call))
    )


def asks_too_long(leash: Leash, call: tuple[Any, ...]) -> bool:
    """Return whether a call that does nothing asks for an expiry that is too long."""
    words = [str(word) for word in call if not isinstance(word, bytes)]
    if call[0] == "RESTORE":
        return int(words[2]) > MAX_MS
    if call[0] in ("EXPIRE", "SETEX"):
        return int(words[2]) * 1000 > MAX_MS
    if call[0] in ("HGETEX", "HSETEX"):
        # The expiry is that of fields.
        return False
    return "EX" in words and int(words[words.index("EX") + 1]) * 1000 > MAX_MS


def assert_equal_decisions(decided: Decision, reply: Any, call: tuple[Any, ...]) -> None:
    """Assert that evaluator and guard decide equally, up to the moment of an expiry."""
    is_denied = isinstance(reply, str) and reply.startswith("LEASH")
    assert decided.allowed is not is_denied, (call, decided, reply)
    if is_denied:
        denial = refusal(reply)
        assert denial is not None
        expected = dict(decided.details)
        if denial.details.get("rule") == "ttl":
            expected["was"] = denial.details["was"]
        if call[0].startswith("MSET"):
            # Of several values that are too long, any is named.
            expected = denial.details
        assert (decided.code, expected) == (denial.code, denial.details), (call, reply)


@pytest.mark.parametrize("count", [pytest.param(250), pytest.param(6000, marks=pytest.mark.slow)])
def test_write_is_denied_if_and_only_if_it_would_break_a_rule(
    embedded: RealServer, count: int
) -> None:
    """Each call is first made by an operator in another database, on copies of the keys."""
    leash = Leash(embedded)
    leash.load(one=IDENTITY)
    token = leash.issue("one").token
    identity = parse_policy(policy(one=IDENTITY), file="p", commands=embedded.table).identities[0]
    draws = writer(leash, 7)
    trial = embedded.client(db=1)
    denied = 0
    for _ in range(count):
        call = draws.call()
        if call[0] not in embedded.table.commands:
            continue
        expected = breaks(leash, trial, call)
        state = model_state(Store(leash.admin, NAMES))
        words = [word if isinstance(word, bytes) else str(word).encode() for word in call]
        declared = declared_keys(embedded.table, words)
        now_us = leash.store.now_us()
        decided = decide(identity, embedded.table, words, declared, state, now_us)
        reply = leash.call("one", token, *call)
        is_denied = isinstance(reply, str) and reply.startswith("LEASH")
        denied += is_denied
        if call[0] != "RESTORE":
            assert_equal_decisions(decided, reply, call)
        # Of a key that MSET has twice, each value is checked.
        is_twice = call[0].startswith("MSET") and len({*declared}) < len(declared)
        if expected is not None and call[0] not in UNSURE and not is_twice:
            assert is_denied == expected, (call, reply)
    assert denied > 30


RULED: dict[str, Any] = {
    "grants": [
        {
            "allow": ["read", "write", "delete"],
            "keys": ["doc:*"],
            "values": {"max_elements": 3, "ttl": {"default": "1h", "max": "1d"}},
            "before_images": {"max_bytes": "64kb"},
            "scripts": ["redis-py-lock"],
        },
        {"allow": ["read", "write", "delete"], "keys": ["one:*"], "values": {"only": "absent"}},
    ]
}


def test_batch_is_checked_with_what_its_commands_leave(server: RealServer) -> None:
    """Sizes add up, deleted keys are empty, and one that was written is there."""
    leash = Leash(server)
    leash.load(one=RULED)
    agent: Any = leash.agent("one")
    agent.rpush("doc:{d}l", "a", "b", "c")

    def codes(*calls: tuple[Any, ...], transaction: bool = False) -> list[str]:
        pipe = agent.pipeline(transaction=transaction)
        for call in calls:
            pipe.execute_command(*call)
        replies = pipe.execute(raise_on_error=False)
        return [reply.code if isinstance(reply, keyleash.LeashError) else "" for reply in replies]

    refused = "VALUE_REFUSED"
    assert codes(("DEL", "doc:{d}l"), ("RPUSH", "doc:{d}l", 1, 2, 3), ("RPUSH", "doc:{d}l", 4)) == [
        "", "", refused,
    ]  # fmt: skip
    growing = [("SADD", "doc:{d}s", first, first + 1) for first in (1, 2, 3)]
    assert codes(*growing) == ["", refused, refused]
    adding = ("SADD", "doc:{d}s", 1, 2), ("SADD", "doc:{d}s", 3), ("SREM", "doc:{d}s", 1)
    assert codes(*adding) == ["", "", ""]
    pushes = [("RPUSH", f"doc:{{d}}{name}", 4) for name in "ml"]
    assert codes(("RENAME", "doc:{d}l", "doc:{d}m"), *pushes) == ["", refused, ""]
    twice = (
        ("SET", "one:{d}a", 1),
        ("SET", "one:{d}a", 2),
        ("DEL", "one:{d}a"),
        ("SET", "one:{d}a", 3),
    )
    assert codes(*twice) == ["", refused, "", ""]
    assert codes(("SET", "doc:{d}x", 1), ("SET", "doc:{d}y", 1), ("SET", "doc:{d}z", 1)) == [
        "",
        "",
        "",
    ]
    agent.set("one:{d}b", 1)
    with pytest.raises(keyleash.ValueRefusedError):
        agent.rename("one:{d}b", "one:{d}a")
    names = ["doc:{d}" + name for name in "xyzms"]
    assert all(3_500_000 < leash.admin.pttl(name) <= 3_600_000 for name in names)
    with pytest.raises(keyleash.ValueRefusedError) as denied:
        agent.persist("doc:{d}x")
    assert denied.value.details["limit"] == "86400000"
    with pytest.raises(keyleash.ValueRefusedError) as denied:
        codes(("SET", "doc:{d}x", 1), ("EXPIRE", "doc:{d}x", 86_401), transaction=True)
    assert denied.value.details == {
        "key": "doc:{d}x", "rule": "ttl", "limit": "86400000", "was": "86401000", "item": "2",
    }  # fmt: skip


@pytest.mark.parametrize(
    "idle",
    [
        ("COPY", "doc:{d}none", "doc:{d}l", "REPLACE"),
        ("COPY", "doc:{d}one", "doc:{d}l"),
        ("RENAME", "doc:{d}none", "doc:{d}l"),
        ("RENAMENX", "doc:{d}one", "doc:{d}l"),
        ("SUNIONSTORE", "doc:{d}l", "doc:{d}one"),
        ("ZUNIONSTORE", "doc:{d}l", 1, "doc:{d}one"),
        ("ZRANGESTORE", "doc:{d}l", "doc:{d}one", 0, -1),
        ("SORT", "doc:{d}text", "STORE", "doc:{d}l"),
    ],
    ids=lambda call: call[0],
)
def test_command_of_a_batch_that_does_nothing_leaves_no_room_for_the_next(
    server: RealServer, idle: tuple[Any, ...]
) -> None:
    """The elements of its destination are then still there, and count for the next command."""
    leash = Leash(server)
    leash.load(one=RULED)
    agent: Any = leash.agent("one")
    agent.rpush("doc:{d}l", "a", "b", "c")
    agent.rpush("doc:{d}one", "a")
    agent.set("doc:{d}text", "x")

    for _ in range(2):
        pipe = agent.pipeline(transaction=False)
        pipe.execute_command(*idle)
        pipe.rpush("doc:{d}l", "d")
        pipe.execute(raise_on_error=False)

    assert leash.admin.llen("doc:{d}l") == 3


SHORT: dict[str, Any] = {
    "grants": [
        {
            "allow": ["read", "write", "delete"],
            "keys": ["doc:*"],
            "values": {"max_bytes": f"{BYTES}b"},
        },
        {"allow": ["read", "write", "delete"], "keys": ["free:*"]},
        {"allow": ["write"], "keys": ["*"], "only": ["RESTORE"]},
    ]
}
LONG = "x" * BYTES
MANY = ("PFADD", "free:{d}b", *range(3000))


@pytest.mark.parametrize(
    "calls",
    [
        [("INCRBY", "doc:{d}a", 10**18), ("APPEND", "doc:{d}a", LONG)],
        [
            ("INCR", "free:{d}b"),
            ("BITOP", "OR", "doc:{d}a", "free:{d}b"),
            ("APPEND", "doc:{d}a", LONG),
        ],
        [("RENAME", "doc:{d}full", "doc:{d}a"), ("APPEND", "doc:{d}a", LONG)],
        [("RENAMENX", "doc:{d}full", "doc:{d}a"), ("APPEND", "doc:{d}a", LONG)],
        [("RENAME", "free:{d}long", "free:{d}b"), ("BITOP", "NOT", "doc:{d}a", "free:{d}b")],
        [MANY, ("BITOP", "NOT", "doc:{d}a", "free:{d}b")],
        [("SADD", "free:{d}s", LONG * 2), ("SUNIONSTORE", "doc:{d}s", "free:{d}s")],
        [("ZADD", "free:{d}z", 1, LONG * 2), ("ZRANGESTORE", "doc:{d}z", "free:{d}z", 0, -1)],
        [("RESTORE", "doc:{d}a", 0, "short"), ("APPEND", "doc:{d}a", "x" * (BYTES // 2))],
        [("RESTORE", "free:{d}b", 0, "long"), ("BITOP", "NOT", "doc:{d}a", "free:{d}b")],
        [
            ("INCRBYFLOAT", "free:{d}b", "1e30"),
            ("BITOP", "OR", "doc:{d}a", "free:{d}b"),
            ("APPEND", "doc:{d}a", "x" * 20),
        ],
    ],
    ids=lambda calls: "-".join(call[0] for call in calls),
)
def test_string_that_a_batch_moves_or_counts_up_is_as_long_for_its_next_command(
    server: RealServer, calls: list[tuple[Any, ...]]
) -> None:
    """No later command of the batch makes it longer than its rule allows."""
    leash = Leash(server)
    leash.load(one=SHORT)
    token = leash.issue("one").token
    dumps: dict[Any, bytes] = {}
    for name, length in (("short", BYTES), ("long", 100 * BYTES)):
        leash.admin.set("{d}", "x" * length)
        dumps[name] = leash.admin.dump("{d}")
    leash.admin.set("doc:{d}full", LONG)
    leash.admin.set("free:{d}long", 100 * LONG)
    calls = [tuple(dumps.get(word, word) for word in call) for call in calls]

    *first, last = leash.batch("one", token, "each", *calls)

    assert not any("LEASH" in str(reply) for reply in first[: len(calls) - 2])
    assert "VALUE_TOO_LARGE" in str(last)
    assert leash.admin.strlen("doc:{d}a") <= BYTES


BOUNDED: dict[str, Any] = {
    "grants": [
        {"allow": ["read", "write", "delete"], "keys": [f"{name}:*"], "values": rules}
        for name, rules in {
            "full": {"max_elements": 3},
            "short": {"max_bytes": "4b"},
            "wide": {"max_bytes": "40b"},
            "free": {},
        }.items()
    ]
    + [{"allow": ["write"], "keys": ["*"], "only": ["RESTORE"]}]
}
MANY_ELEMENTS, LONG_ELEMENT = "VALUE_REFUSED", "VALUE_TOO_LARGE"
AT_THE_BOUND: dict[str, list[str]] = {
    "": [
        "HSET full:h 1 x", "HSETNX full:h 1 x", "HINCRBY full:h 1 1", "HINCRBYFLOAT full:h 1 1.5",
        "HSETEX full:h EX 9 FIELDS 1 1 x", "SADD full:s 1 2 3", "SMOVE free:s full:s 1",
        "ZADD full:z 1 1", "ZADD full:z XX 1 new", "ZADD full:z INCR 1 1", "ZINCRBY full:z 1 1",
        "GEOADD full:z 1 1 1", "LSET full:l 0 x", "LMOVE full:l full:l LEFT RIGHT",
        "XADD full:x MAXLEN 3 * f v", "XADD full:x MAXLEN = 3 * f v", "SUNIONSTORE full:s full:s",
        "SINTERSTORE full:n free:s full:s", "SDIFFSTORE full:n full:s free:n",
        "ZUNIONSTORE full:z 1 full:z", "ZRANGESTORE full:n free:z 0 2", "COPY full:l full:n",
        "SORT free:l LIMIT 0 3 STORE full:n ALPHA", "RENAME full:l full:n",
        "LMOVE free:l short:n RIGHT LEFT", "LMOVE short:l short:n LEFT LEFT",
        "SMOVE free:s short:n 1", "INCRBYFLOAT free:n 1e30", "HINCRBYFLOAT free:h 1 1e30",
        "COPY short:l short:n", "SUNIONSTORE short:n short:s", "SORT short:l STORE short:n ALPHA",
        "SDIFFSTORE short:n free:s free:long", "LINSERT short:l BEFORE 9 1234",
        "INCR wide:n", "INCRBYFLOAT wide:n 1.5", "HINCRBYFLOAT wide:h f 1.5",
    ],
    MANY_ELEMENTS: [
        "HSET full:h 9 x", "HSET full:h 1 x 9 x", "HSETNX full:h 9 x", "HINCRBY full:h 9 1",
        "HINCRBYFLOAT full:h 9 1.5", "HSETEX full:h EX 9 FIELDS 1 9 x", "SADD full:s 1 9",
        "SMOVE free:s full:s 9", "ZADD full:z 1 9", "ZADD full:z NX CH 1 9", "ZADD full:z GT 1 9",
        "ZADD full:z INCR 1 9", "ZINCRBY full:z 1 9", "GEOADD full:z 1 1 9", "LPUSH full:l 1",
        "RPUSH full:l 1", "LINSERT full:l BEFORE 1 1", "LMOVE free:l full:l LEFT RIGHT",
        "RPOPLPUSH free:l full:l", "XADD full:x * f v", "XADD full:x NOMKSTREAM * f v",
        "XADD full:x MAXLEN 4 * f v", "XADD full:x MAXLEN ~ 3 * f v", "XADD full:x MINID 1 * f v",
        "SUNIONSTORE full:n free:s full:s", "SINTERSTORE full:n free:s free:s",
        "SDIFFSTORE full:n free:s free:n", "ZUNIONSTORE full:n 2 free:z full:z",
        "ZINTERSTORE full:n 1 free:z", "ZDIFFSTORE full:n 2 free:z free:n",
        "ZRANGESTORE full:n free:z 0 -1", "COPY free:l full:n", "RENAME free:l full:n",
        "RENAMENX free:h full:n", "SORT free:l STORE full:n ALPHA",
        "SORT full:l GET # GET # STORE full:n ALPHA",
        "GEOSEARCHSTORE full:n free:g FROMLONLAT 1 1 BYRADIUS 9999 km",
        "GEORADIUS free:g 1 1 9999 km STORE full:n",
    ],
    LONG_ELEMENT: [
        "HSET short:h 12345 x", "HSET short:h 1 12345", "HSET short:h 1 x 2 12345",
        "HSETEX short:h EX 9 FIELDS 1 1 12345", "HINCRBY short:h 1 1",
        "HINCRBYFLOAT short:h 1 1e30", "HINCRBYFLOAT short:h 12345 1", "SADD short:s 1 12345",
        "SMOVE free:long short:s 12345",
        "ZADD short:z 1 1 1 12345", "ZADD short:z NX 1 12345", "ZINCRBY short:z 1 12345",
        "GEOADD short:z 1 1 12345", "LPUSH short:l 12345", "LSET short:l 0 12345",
        "LINSERT short:l BEFORE 1 12345", "XADD short:x * 12345 v", "XADD short:x * f 12345",
        "XADD short:x MAXLEN 3 * f 12345", "LMOVE free:l short:n LEFT LEFT", "SET short:n 12345",
        "INCR short:n", "INCRBYFLOAT short:n 1", "PFADD short:n 1", "APPEND short:t 5",
        "SUNIONSTORE short:n free:long free:s", "SORT free:l STORE short:n ALPHA",
        "SORT short:l GET free:* STORE short:n", "ZRANGESTORE short:n free:z 0 -1",
        "COPY free:l short:n", "COPY free:long short:n", "COPY free:h short:n",
        "COPY free:z short:n", "COPY free:x short:n", "COPY free:t short:n",
        "RENAME free:l short:n", "RENAME free:t short:n", "RENAMENX free:h short:n",
        f"HINCRBY wide:h {41 * 'x'} 1", f"HINCRBYFLOAT wide:h {41 * 'x'} 1",
        "HINCRBYFLOAT wide:h f 1e30", "INCRBYFLOAT wide:n 1e30",
        "HINCRBYFLOAT wide:h long 1", "INCRBYFLOAT wide:t 1",
    ],
}  # fmt: skip
"""Calls by the code of their denial; `{d}` stands behind each colon of a key."""


@pytest.mark.parametrize("code", AT_THE_BOUND, ids=lambda code: code or "allowed")
def test_each_command_is_checked_at_the_bound(server: RealServer, code: str) -> None:
    """One more element, or a longer one, is denied; alone and in a batch, and by its rule."""
    leash = Leash(server)
    leash.load(one=BOUNDED)
    token = leash.issue("one").token

    for text in AT_THE_BOUND[code]:
        call = tuple(re.sub(r"^(full|short|wide|free):", r"\1:{d}", word) for word in text.split())
        if call[0] not in server.table.commands:
            continue
        for is_batch in (False, True):
            put_elements(leash.at("{d}"))
            reply = (
                leash.batch("one", token, "each", call)[0]
                if is_batch
                else leash.call("one", token, *call)
            )
            found = refusal(reply) if isinstance(reply, str) else None
            assert (found.code if found else "") == code, (call, reply)


@pytest.mark.parametrize(
    ("key", "fill", "add"),
    [
        ("s", "SADD full:s a b c", "SADD full:s 1"),
        ("s", "SADD full:s a b c", "SMOVE free:s full:s 1"),
        ("h", "HSET full:h a 1 b 2 c 3", "HSET full:h 1 x"),
        ("h", "HSET full:h a 1 b 2 c 3", "HINCRBY full:h 1 1"),
        ("h", "HSET full:h a 1 b 2 c 3", "HINCRBYFLOAT full:h 1 1"),
        ("z", "ZADD full:z 1 a 1 b 1 c", "ZADD full:z 1 1"),
        ("z", "ZADD full:z 1 a 1 b 1 c", "ZINCRBY full:z 1 1"),
    ],
)
def test_element_of_a_deleted_key_is_a_new_one_behind_it_in_the_batch(
    server: RealServer, key: str, fill: str, add: str
) -> None:
    """It was there before the batch, and is no longer."""
    leash = Leash(server)
    leash.load(one=BOUNDED)
    token = leash.issue("one").token
    put_elements(leash.at("{d}"))
    texts = (f"DEL full:{key}", fill, add)
    calls = [[re.sub(r"^(full|free):", r"\1:{d}", word) for word in text.split()] for text in texts]

    *_, last = leash.batch("one", token, "each", *map(tuple, calls))

    assert "VALUE_REFUSED" in str(last)


def put_elements(admin: Any) -> None:
    """Put three elements into keys, and four with a long one into those without a rule."""
    for key in admin.keys("[fsw]*:{d}*"):
        admin.delete(key)
    for name in ("full:{d}", "short:{d}", "free:{d}"):
        words = ["1", "2", "3", *(["9", "12345"] if name.startswith("free") else [])]
        admin.rpush(f"{name}l", *reversed(words))
        admin.sadd(f"{name}s", *words[:4])
        admin.hset(f"{name}h", mapping={word: word for word in words})
        admin.zadd(f"{name}z", dict.fromkeys(words, 1))
        for word in words:
            admin.xadd(f"{name}x", {"f": word})
        admin.set(f"{name}t", words[-1] if name.startswith("free") else "1234")
    admin.hset("wide:{d}h", "long", "1234567890.12345678901")
    admin.set("wide:{d}t", "1234567890.12345678901")
    admin.sadd("free:{d}long", "12345")
    admin.set("free:{d}1", "12345")
    admin.geoadd("free:{d}g", [word for name in "abcd" for word in (1, 1, name)])


def test_expiry_belongs_to_the_event_and_is_undone_with_it(server: RealServer) -> None:
    """The after-image has the expiry that the guard set, so that an undo finds no conflict."""
    leash = Leash(server)
    leash.load(one=RULED)
    agent: Any = leash.agent("one")
    leash.admin.set("doc:a", "old")
    with keyleash.correlation("job"):
        agent.set("doc:a", "new")
        agent.rpush("doc:l", "x")
        agent.pipeline(transaction=False).set("doc:b", "1").execute()
    assert leash.admin.pttl("doc:a") > 0

    with keyleash.Operator.from_url(leash.server.url, actor="ops") as operator:
        plan = operator.undo.plan(correlation="job")
        assert plan.blocked == ()
        operator.undo.apply(plan)

    assert (leash.admin.get("doc:a"), leash.admin.pttl("doc:a")) == (b"old", -1)
    assert leash.admin.exists("doc:l", "doc:b") == 0


def test_script_is_checked_command_by_command(server: RealServer) -> None:
    """A lock gets the longest expiry that the rule allows, and no longer one."""
    leash = Leash(server)
    leash.load(one=RULED)
    agent: Any = leash.agent("one")
    lock = agent.lock("doc:lock", timeout=60)
    assert lock.acquire()
    assert lock.extend(600)

    with pytest.raises(keyleash.ValueRefusedError):
        lock.extend(100_000)


def test_every_command_that_writes_is_known() -> None:
    """Others are denied on keys with a bound on elements, so a new one needs an entry."""
    unknown = {
        spec.name
        for spec in load_table()
        if spec.refused is None
        and (found := written_by(spec)) is not None
        and found.how is Writes.UNKNOWN
    }
    assert unknown == set()
