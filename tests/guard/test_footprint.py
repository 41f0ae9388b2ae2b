"""The cost of a guarded call without a clock: the commands that it runs, and its script's size.

A change that makes calls dearer is a difference of the golden files here, for a reviewer to
see; `make golden` regenerates them. The same hold for every server.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from benchmarks.support.policy import plain_example

from keyleash.commands import load_table
from keyleash.compiler import compile_policy
from keyleash.doubles import DOUBLE
from keyleash.errors import ReplyCode
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.revoke import revoke
from keyleash.policy import parse_policy
from keyleash.store.state import FIRST_NUMBER
from keyleash.store.store import Store
from keyleash.store.wire import MAX_ARGUMENTS
from support.errors import OF_CLUSTERS, OF_FEATURES
from support.footprint import Footprint, Footprints
from support.golden import GOLDEN, assert_golden
from support.leash import NAMES, Leash, grant, policy

RETAIN = 100
PATTERNS = 200
STAMP_DIGITS = len(str(2**48))

ALL = {"grants": [grant("read", "write", "delete", "scan", keys="doc:{kind}:*")]}
READ = {"grants": [grant("read", keys="doc:{kind}:*")]}
RING, GCRA, BUDGET = "1000/day", {"limit": "100000/day", "burst": 1000}, "100000/day"
SUBJECTS = {"token": "token", "kind": "{kind}"}

LIMITED: dict[str, dict[str, Any]] = {
    "free": {},
    "ring": {"rate": {"writes": RING}},
    "gcra": {"rate": {"writes": GCRA}},
    "budget": {"budget": {"writes": BUDGET}},
    "three": {"rate": {"writes": GCRA}, "budget": {"requests": BUDGET, "writes": BUDGET}},
}
for name, per in SUBJECTS.items():
    LIMITED |= {
        f"ring-per-{name}": {"rate": {"writes": {"limit": RING, "per": per}}},
        f"gcra-per-{name}": {"rate": {"writes": {**GCRA, "per": per}}},
        f"budget-per-{name}": {"budget": {"writes": {"limit": BUDGET, "per": per}}},
    }

REFUSED: dict[str, dict[str, Any]] = {
    "reader": {
        "grants": [*READ["grants"], {"allow": ["publish"], "channels": ["news"]}],
        "deny": [{"keys": ["doc:a:secret"]}],
    },
    "rated": {**ALL, "rate": {"writes": "1/day"}},
    "unexported": {**ALL, "audit": {"retain": {"until": "exported", "hard_max": 1}}},
    "budgeted": {**ALL, "budget": {"writes": "1/month"}},
    "corrupt": {**ALL, "budget": {"writes": "1/month"}},
    "small": {
        "grants": [{**ALL["grants"][0], "values": {"max_bytes": "64b"}}],
        "limits": {"work": 1000},
    },
    "ruled": {"grants": [{**ALL["grants"][0], "values": {"max_elements": 1}}]},
    "breaking": {**ALL, "on_denials": {"threshold": "1000/day", "suspend": "1h"}},
    **dict.fromkeys(("expired", "revoked", "suspended", "gone", "stale"), ALL),
}

POLICY = policy(
    **{name: {**ALL, **limits} for name, limits in LIMITED.items()},
    **REFUSED,
    idle={**ALL, "token": {"idle": "1h"}},
    bound={**ALL, "token": {"bound": True}},
    family={**ALL, "token": {"bound": True}, "delegate": {"depth": 2}},
    trimmed={**ALL, "audit": {"retain": RETAIN}},
    imaged={**ALL, "audit": {"before_images": {"max_bytes": "64kb"}}},
    sourced={**ALL, "audit": {"source": True}},
    logged={**ALL, "audit": {"reads": True, "values": "full", "mask_keys": ["doc:m:*"]}},
)

GET, SET = ("GET", "doc:a:1"), ("SET", "doc:a:1", "x")
MSET = ("MSET", "doc:a:1", "x", "doc:b:1", "y")
XREAD = ("XREAD", "BLOCK", "0", "STREAMS", "doc:a:s", "$")
XREADGROUP = ("XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", "doc:a:s", ">")
COMMANDS: dict[str, tuple[Any, ...]] = {
    "PING": ("PING",),
    "SET": SET,
    "SET … GET": (*SET, "GET"),
    "GET": GET,
    "EXISTS of two": ("EXISTS", "doc:a:1", "doc:b:1"),
    "MSET of two": MSET,
    "MGET of two": ("MGET", "doc:a:1", "doc:b:1"),
    "INCR": ("INCR", "doc:a:n"),
    "INCR past 2^53": ("INCR", "doc:a:big"),
    "HSET": ("HSET", "doc:a:h", "f", "v"),
    "HGETALL": ("HGETALL", "doc:a:h"),
    "LRANGE of ten": ("LRANGE", "doc:a:l", "0", "9"),
    "LRANGE of all": ("LRANGE", "doc:a:l", "0", "-1"),
    "SETRANGE": ("SETRANGE", "doc:a:1", "3", "x"),
    "APPEND": ("APPEND", "doc:a:1", "x"),
    "LPUSH": ("LPUSH", "doc:a:l", "x"),
    "LPUSH, an error": ("LPUSH", "doc:a:1", "x"),
    "SCAN": ("SCAN", "0", "MATCH", "doc:a:*"),
    "BLPOP": ("BLPOP", "doc:a:l", "0"),
    "BLPOP, nothing there": ("BLPOP", "doc:a:l", "0"),
    "BLMOVE, nothing there": ("BLMOVE", "doc:a:l", "doc:a:m", "LEFT", "LEFT", "0"),
    "XREAD BLOCK, nothing there": XREAD,
    "XADD": ("XADD", "doc:a:s", "1-1", "f", "v"),
    "XREAD BLOCK": (*XREAD[:-1], "0"),
    "XREADGROUP BLOCK, new consumer": XREADGROUP,
    "XREADGROUP BLOCK, nothing there": XREADGROUP,
    "DEL": ("DEL", "doc:a:h"),
}

Case = tuple[str, Footprint]


def test_call_runs_the_commands_that_are_recorded(leash: Leash) -> None:
    """No more and no less, whatever the server; what a call asks for is one of them."""
    leash.load(stale=READ)
    stale_digest = leash.digest("stale")
    server = Footprints(leash, POLICY)
    prepare(server)

    cases = [
        *commands(server),
        *limits(server),
        *recorded(server),
        *bound(server),
        *delegated(server),
        *trims(server),
        *batches(server),
    ]
    refused = list(refusals(server, stale_digest))

    known = set(ReplyCode) - OF_CLUSTERS - OF_FEATURES
    assert {footprint.outcome for _, footprint in refused} == known
    assert_golden(GOLDEN / "footprint" / "calls.txt", table([*cases, *refused]))


def prepare(server: Footprints) -> None:
    server.admin.set("doc:a:big", 2**53)
    server.admin.xgroup_create("doc:a:s", "g", mkstream=True)
    server.rewrite_token("expired", expires_us=server.now_us() // 1000 * 1000)
    revoke(Store(server.admin), identity="revoked")
    freeze(Store(server.admin), "suspended", reason="x")
    server.admin.delete(NAMES.state("gone"))
    server.admin.setrange(NAMES.state("corrupt"), FIRST_NUMBER * DOUBLE, b"\xff" * DOUBLE)


def commands(server: Footprints) -> Iterator[Case]:
    for title, command in COMMANDS.items():
        yield title, server.of(server.call("free", *command))


def limits(server: Footprints) -> Iterator[Case]:
    for name in LIMITED:
        yield f"SET, {name}, first", server.of(server.call(name, *SET))
        yield f"SET, {name}", server.of(server.call(name, *SET))
        yield f"MSET of two, {name}", server.of(server.call(name, *MSET))
        yield f"GET, {name}", server.of(server.call(name, *GET))
    server.rewrite_token("idle", used_us=server.now_us() - 2_000_000)
    yield "GET, idle for two seconds", server.of(server.call("idle", *GET))
    # As far ahead as nothing on a slow machine may fall behind.
    server.rewrite_token("idle", used_us=server.now_us() + 3_600_000_000)
    yield "GET, idle, used just now", server.of(server.call("idle", *GET))


def recorded(server: Footprints) -> Iterator[Case]:
    """Yield the calls with optional fields in their events."""
    for title in ("SET", "GET", "MSET of two", "HSET", "DEL"):
        yield f"{title}, images", server.of(server.call("imaged", *COMMANDS[title]))
    yield "SET, source", server.of(server.call("sourced", *SET))
    for title in ("SET", "GET", "PING"):
        yield f"{title}, arguments", server.of(server.call("logged", *COMMANDS[title]))


def bound(server: Footprints) -> Iterator[Case]:
    """Yield calls of tokens with and without restrictions; only a cap runs another command."""
    scopes: dict[str, dict[str, Any]] = {
        "not bound": {},
        "bound": {"bind": {"kind": "a"}, "keys": ["doc:a:*"]},
        "capped": {"bind": {"kind": "a"}, "budget": {"requests": 1000, "writes": "1000/hour"}},
    }
    for title, scope in scopes.items():
        token = server.leash.issue("bound", **scope).token
        # The clock of a guard has milliseconds: within the same one the first use is not noted.
        time.sleep(0.005)
        server.of(server.call("bound", *GET, token=token))
        yield f"SET, {title}", server.of(server.call("bound", *SET, token=token))


def delegated(server: Footprints) -> Iterator[Case]:
    """Yield calls of an identity whose tokens delegate: only a child reads its ancestors."""
    token = server.leash.issue("family", budget={"requests": 1000}).token
    for title in ("delegating", "child", "grandchild"):
        # The clock of a guard has milliseconds: within the same one the first use is not noted.
        time.sleep(0.005)
        server.of(server.call("family", *GET, token=token))
        yield f"SET, {title}", server.of(server.call("family", *SET, token=token))
        token = server.leash.client(token).delegate().token if title != "grandchild" else token


def trims(server: Footprints) -> Iterator[Case]:
    """One millisecond in seven trims the stream."""
    single = server.call("trimmed", *SET)
    # The first use of a token is written down.
    server.of(single)
    yield "SET, trims", server.until(lambda ran: ran.calls["xtrim"] > 0, single)
    batch = server.batch("trimmed", "all", [SET, SET])
    yield "batch of 2, trims", server.until(lambda ran: ran.calls["xtrim"] > 0, batch)


def batches(server: Footprints) -> Iterator[Case]:
    sets = [("SET", f"doc:a:{n}", "x") for n in range(16)]
    kinds = [("SET", f"doc:{n}:1", "x") for n in range(16)]
    gets = [("GET", f"doc:a:{n}") for n in range(16)]
    for mode in ("each", "all"):
        yield f"16 GETs, {mode}", server.of(server.batch("free", mode, gets))
        yield f"17 GETs, {mode}", server.of(server.batch("free", mode, [*gets, GET]))
        refused = [*sets[:15], ("FLUSHALL",)]
        yield f"15 SETs and a FLUSHALL, {mode}", server.of(server.batch("free", mode, refused))
        for name in LIMITED:
            yield f"16 SETs, {mode}, {name}", server.of(server.batch(name, mode, sets))
    for name in (name for name in LIMITED if name.endswith("-per-kind")):
        yield f"16 SETs of 16 kinds, all, {name}", server.of(server.batch(name, "all", kinds))


def refusals(server: Footprints, stale_digest: str) -> Iterator[Case]:
    too_long = ["MGET", *(f"doc:a:{n}" for n in range(MAX_ARGUMENTS))]
    mismatched = server.call("free", *GET)
    mismatched[3] = "doc:a:2"
    stale = server.call("stale", *GET)
    stale[1] = stale_digest
    for name in ("rated", "budgeted", "unexported"):
        server.of(server.call(name, *SET))
    calls = {
        "wrong token": server.call("free", *GET, token="kl_free_wrong"),
        "expired": server.call("expired", *GET),
        "revoked": server.call("revoked", *GET),
        "suspended": server.call("suspended", *GET),
        "no state": server.call("gone", *GET),
        "old guard": stale,
        "FLUSHALL": server.call("free", "FLUSHALL"),
        "class": server.call("reader", *SET),
        "key": server.call("reader", "GET", "other"),
        "key, with a breaker": server.call("breaking", "GET", "other"),
        "denied key": server.call("reader", "GET", "doc:a:secret"),
        "channel": server.call("reader", "PUBLISH", "olds", "x"),
        "undeclared key": mismatched,
        "too long": server.call("free", *too_long),
        "rate": server.call("rated", *SET),
        "budget": server.call("budgeted", *SET),
        "audit full": server.call("unexported", *SET),
        "corrupt counter": server.call("corrupt", *SET),
        "work": server.call("small", "PFCOUNT", *["doc:a:1"] * 21),
        "name": server.call("reader", "GET", "doc:a:" + "x" * 1020),
        "value": server.call("small", "SET", "doc:a:1", "x" * 65),
        "elements": server.call("ruled", "RPUSH", "doc:a:list", "a", "b"),
    }
    for title, call in calls.items():
        # The first of a minute is an entry of its own.
        for identity in LIMITED | REFUSED:
            server.admin.unlink(NAMES.repeats(identity))
        yield f"refused: {title}", server.of(call)
        if "hincrby" in server.of(call).calls:
            again = server.until(lambda ran: "xadd" not in ran.calls, call)
            yield f"refused again: {title}", again


def table(cases: list[Case]) -> str:
    return "".join(f"{title:<40} {footprint}\n" for title, footprint in cases)


def test_script_is_as_long_as_recorded() -> None:
    """In bytes: an identity's scripts stay in the memory of every server that runs them."""
    documents = {"agents.yaml": plain_example()}
    documents[f"{PATTERNS} patterns"] = policy(
        large={
            "grants": [
                grant(
                    *("read", "write", "delete"),
                    keys=[f"agents:kind{n:03}:{{job_id}}:state" for n in range(PATTERNS)],
                )
            ]
        }
    )
    lines = [f"{'policy':<20} {'identity':<20} {'guard':>8} {'batch':>8}\n"]
    for name, document in documents.items():
        parsed = parse_policy(document, file=name, commands=load_table())
        for guard in compile_policy(parsed, load_table(), year=2026):
            # The stamp is a hash of the rules; a leading zero is not a gain.
            full = str(guard.stamp), "9" * STAMP_DIGITS
            sizes = [len(text.replace(*full)) for text in (guard.script, guard.batch_script)]
            lines.append(f"{name:<20} {guard.identity:<20} {sizes[0]:>8} {sizes[1]:>8}\n")
    assert_golden(GOLDEN / "footprint" / "sizes.txt", "".join(lines))
