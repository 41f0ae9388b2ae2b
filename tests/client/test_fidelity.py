"""A guarded call gives what a raw one gives: the same reply, error and data."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import redis

from client.alike import awaiting
from client.twin import FAR_S, AsyncTwin, Piped, Twin, answer, difference, recorded_calls
from keyleash.commands import load_table
from keyleash.errors import CommandRefusedError
from keyleash.store.live_table import read_table
from support.command_table import command_rows
from support.servers import RealServer

WIRES: list[dict[str, Any]] = [{}, {"protocol": 2}, {"protocol": 3}]
PARSERS = [
    {**wire, "decode_responses": decoded, "legacy_responses": legacy}
    for wire, decoded, legacy in itertools.product(WIRES, (False, True), (True, False))
]
MADE = [{**wire, "decode_responses": False, "legacy_responses": True} for wire in WIRES[1:]]
"""redis-py's default options, covered by the test of replies and data."""
FEW = [
    {"decode_responses": False, "legacy_responses": True},
    {"protocol": 2, "decode_responses": True, "legacy_responses": False},
    {"protocol": 3, "decode_responses": True, "legacy_responses": False},
]
"""The options whose tests are not slow: each value of each, and the shapes of both protocols."""


def parsers(*besides: dict[str, Any]) -> list[Any]:
    """Return all options of parsers but *besides*; those that are not in `FEW` as slow tests."""
    return [
        pytest.param(options, marks=() if options in FEW else pytest.mark.slow)
        for options in PARSERS
        if options not in besides
    ]


def named(options: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items()) or "defaults"


def test_every_scopable_command_has_a_recorded_call() -> None:
    """The replies of a command that is not compared may differ."""
    # No guard runs what subscribes.
    scopable = {
        spec.name for spec in load_table() if spec.refused is None and spec.subscribes is None
    }

    assert {name for name, row in command_rows().items() if row.calls} == scopable


@pytest.mark.parametrize("options", WIRES[1:], ids=named)
def test_recorded_call_gives_and_leaves_the_same_guarded_as_raw(
    server: RealServer, options: dict[str, Any]
) -> None:
    """Reply, error and data of every scopable command, on every server and protocol."""
    assert differences(Twin(server, **options), with_data=True) == []


@pytest.mark.parametrize("options", parsers(*MADE), ids=named)
def test_recorded_call_reads_the_same_guarded_as_raw(
    embedded: RealServer, options: dict[str, Any]
) -> None:
    """redis-py's options for replies have the same effect on those of a guard."""
    assert differences(Twin(embedded, **options), with_data=False) == []


@pytest.mark.slow
@pytest.mark.parametrize("options", MADE, ids=named)
@pytest.mark.parametrize("transaction", [False, True], ids=["each", "transaction"])
def test_recorded_call_gives_and_leaves_the_same_in_a_pipeline(
    server: RealServer, options: dict[str, Any], transaction: bool
) -> None:
    """Against redis-py's own pipelines: what came in a batch reads as what came alone."""
    twin = Twin(server, **options)
    twin.raw, twin.guarded = (
        cast(Any, Piped(client, transaction=transaction, is_behind=True))
        for client in (twin.raw, twin.guarded)
    )

    assert differences(twin, with_data=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("options", parsers(), ids=named)
def test_recorded_call_reads_the_same_with_the_async_client(
    embedded: RealServer, options: dict[str, Any]
) -> None:
    """Alone, and in a pipeline."""
    with awaiting() as runner:
        twin = AsyncTwin(embedded, runner, **options)
        alone = differences(twin, with_data=False)
        raw, guarded = twin.raw, twin.guarded
        twin.raw, twin.guarded = (Piped(item, transaction=False) for item in (raw, guarded))
        piped = differences(twin, with_data=False)
        raw.aclose()
        guarded.aclose()
    assert alone == []
    assert piped == []


def differences(twin: Twin, *, with_data: bool) -> list[str]:
    found = []
    for call in recorded_calls():
        if call.name in twin.commands:
            raw, guarded = (
                twin.outcome(client, call, with_data=with_data)
                for client in (twin.raw, twin.guarded)
            )
            text = difference(call.mark, raw, guarded)
            if text is not None:
                found.append(f"{call}: {text}")
    return found


SYNC_ONLY = {"item", "item missing", "item set and deleted", "bitfield"}
METHODS: dict[str, Callable[[redis.Redis], Any]] = {
    "set": lambda r: r.set("t:new", "x"),
    "set nx": lambda r: r.set("t:str", "x", nx=True),
    "set get": lambda r: r.set("t:str", "x", get=True),
    "set px": lambda r: (r.set("t:new", 1.5, px=100_000), r.persist("t:new")),
    "get": lambda r: r.get("t:str"),
    "get float": lambda r: (r.set("t:new", 0.1), r.get("t:new")),
    "get memoryview": lambda r: (r.set(b"t:new", memoryview(b"\x00a")), r.get("t:new")),
    "item": lambda r: (r["t:str"], "t:str" in r, "t:missing" in r),
    "item missing": lambda r: r["t:missing"],
    "item set and deleted": lambda r: (
        r.__setitem__("t:new", "x"),
        r.__delitem__("t:new"),
        r.exists("t:new"),
    ),
    "mget": lambda r: r.mget("t:missing", "t:str", "t:missing"),
    "mget of nothing": lambda r: r.mget([]),
    "mset": lambda r: r.mset({"t:new": 1, "t:str": 2}),
    "incr": lambda r: (r.incr("t:num"), r.incrby("t:big", 2), r.decr("t:min"), r.incr("t:new", 5)),
    "incrbyfloat": lambda r: r.incrbyfloat("t:float", 0.25),
    "expire": lambda r: (r.expire("t:str", 100), r.expire("t:missing", 100), r.persist("t:str")),
    "ttl": lambda r: (r.ttl("t:str"), r.ttl("t:missing"), r.expiretime("t:ttl")),
    "getex": lambda r: (r.getex("t:str", exat=FAR_S), r.expiretime("t:str")),
    "hgetall": lambda r: (r.hgetall("t:hash"), r.hgetall("t:missing")),
    "hmget": lambda r: r.hmget("t:hash", ["f1", "nofield", "f2"]),
    "hset mapping": lambda r: r.hset("t:hash", mapping={"f1": 1, "f9": b"\x00"}),
    "hincrby": lambda r: (r.hincrby("t:hash", "big", 3), r.hincrbyfloat("t:hash", "fl", 0.5)),
    "hrandfield": lambda r: r.hrandfield("t:hash1", -2, withvalues=True),
    "hscan": lambda r: (r.hscan("t:hash"), sorted(map(str, r.hscan_iter("t:bighash")))),
    "hscan keys": lambda r: r.hscan("t:hash1", no_values=True),
    "sscan": lambda r: sorted(map(str, r.sscan_iter("t:bigset"))),
    "zscan": lambda r: sorted(map(str, r.zscan_iter("t:bigz"))),
    "zscan cast": lambda r: r.zscan("t:zlex", score_cast_func=int),
    "smembers": lambda r: (
        r.smembers("t:set"),
        r.smembers("t:missing"),
        r.sinter(["t:set", "t:set2"]),
    ),
    "smismember": lambda r: r.smismember("t:set", ["a", "z"]),
    "spop": lambda r: (r.spop("t:single"), r.spop("t:single"), r.srandmember("t:missing", 2)),
    "zadd": lambda r: (r.zadd("t:z", {"a": 2}, ch=True), r.zadd("t:z", {"a": 0.5}, incr=True)),
    "zadd nothing": lambda r: r.zadd("t:z", {"a": 1}, nx=True, incr=True),
    "zrange": lambda r: (r.zrange("t:z", 0, -1), r.zrange("t:z", 0, -1, withscores=True)),
    "zrange cast": lambda r: r.zrange("t:zlex", 0, -1, withscores=True, score_cast_func=int),
    "zrangebyscore": lambda r: r.zrangebyscore("t:z", 1, "+inf", start=1, num=2, withscores=True),
    "zrevrange": lambda r: r.zrevrange("t:z", 0, 2, withscores=True),
    "zrandmember": lambda r: r.zrandmember("t:z1", -2, withscores=True),
    "zpopmin": lambda r: (r.zpopmin("t:z", 2), r.zpopmax("t:z"), r.zpopmin("t:missing")),
    "bzpopmin": lambda r: (r.bzpopmin("t:z", 1), r.bzpopmax("t:missing", 0.01)),
    "zscore": lambda r: (
        r.zscore("t:z", "top"),
        r.zscore("t:z", "no"),
        r.zmscore("t:z", ["no", "b"]),
    ),
    "zrank": lambda r: (r.zrank("t:z", "b"), r.zrank("t:z", "b", withscore=True)),
    "zincrby": lambda r: r.zincrby("t:z", 0.1, "third"),
    "geo": lambda r: (
        r.geopos("t:geo", "Palermo", "Atlantis"),
        r.geodist("t:geo", "Palermo", "Catania"),
    ),
    "geosearch": lambda r: r.geosearch(
        "t:geo",
        longitude=15,
        latitude=37,
        radius=200,
        unit="km",
        sort="ASC",
        withcoord=True,
        withdist=True,
        withhash=True,
    ),
    "geohash": lambda r: r.geohash("t:geo", "Atlantis", "Palermo"),
    "lpop": lambda r: (
        r.lpop("t:list"),
        r.rpop("t:list", 2),
        r.lpop("t:missing"),
        r.lrange("t:list", 0, -1),
    ),
    "blpop": lambda r: (r.blpop(["t:missing", "t:list"], 0.01), r.brpop("t:missing", 0.01)),
    "blmove": lambda r: (r.blmove("t:list", "t:new", 1), r.brpoplpush("t:missing", "t:new", 0.01)),
    "lpos": lambda r: (r.lpos("t:list", "a", count=0), r.lpos("t:list", "z")),
    "lset": lambda r: (
        r.lset("t:list", 0, "x"),
        r.ltrim("t:list", 0, 1),
        r.linsert("t:list", "after", "x", "y"),
    ),
    "lcs": lambda r: (
        r.lcs("t:str", "t:str2"),
        r.lcs("t:str", "t:str2", idx=True, withmatchlen=True),
    ),
    "xadd": lambda r: (r.xadd("t:stream", {"f": 1}, id="9-1"), r.xlen("t:stream")),
    "xrange": lambda r: (
        r.xrange("t:stream"),
        r.xrevrange("t:stream", count=1),
        r.xrange("t:missing"),
    ),
    "xpending": lambda r: (r.xpending("t:stream", "g"), r.xpending("t:calm", "g")),
    "xclaim": lambda r: (
        r.xclaim("t:stream", "g", "bob", 0, ["1-0"]),
        r.xclaim("t:stream", "g", "bob", 0, ["2-0"], justid=True),
    ),
    "xautoclaim": lambda r: (
        r.xautoclaim("t:holes", "g", "bob", 0),
        r.xautoclaim("t:holes", "g", "alice", 0, justid=True),
    ),
    "xack": lambda r: (
        r.xack("t:stream", "g", "1-0"),
        r.xtrim("t:stream", maxlen=1),
        r.xdel("t:stream", "4-0"),
    ),
    "bitfield": lambda r: r.bitfield("t:bits", "FAIL").incrby("u8", 0, 300).get("u8", 0).execute(),
    "bits": lambda r: (
        r.setbit("t:bits", 1, 0),
        r.getbit("t:bits", 0),
        r.bitcount("t:bits"),
        r.bitpos("t:bits", 1),
    ),
    "bitop": lambda r: r.bitop("AND", "t:new", "t:str", "t:bits"),
    "pf": lambda r: (
        r.pfadd("t:hll", "x"),
        r.pfcount("t:hll", "t:hll2"),
        r.pfmerge("t:new", "t:hll"),
    ),
    "dump and restore": lambda r: (r.dump("t:bin"), r.restore("t:new", 0, r.dump("t:hash"))),  # type: ignore[arg-type]
    "rename": lambda r: (
        r.rename("t:str", "t:new"),
        r.renamenx("t:new", "t:num"),
        r.copy("t:num", "t:str2"),
    ),
    "rename missing": lambda r: r.rename("t:missing", "t:new"),
    "generic": lambda r: (
        r.exists("t:str", "t:missing"),
        r.type("t:list"),
        r.touch("t:str"),
        r.delete("t:str"),
    ),
    "getset": lambda r: (
        r.getset("t:str", "x"),
        r.getdel("t:str"),
        r.setnx("t:str", 1),
        r.append("t:str", "y"),
    ),
    "ping": lambda r: (r.ping(), r.echo("x")),
    "wrong type": lambda r: r.lpush("t:str", 1),
    "bad value": lambda r: r.set("t:str", None),  # type: ignore[arg-type]
    "bad key": lambda r: r.get(["t:str"]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("options", parsers(), ids=named)
def test_method_of_redis_py_gives_the_same_guarded_as_raw(
    embedded: RealServer, options: dict[str, Any]
) -> None:
    """Methods pass options to the parser, which execute_command alone does not show."""
    assert differing_methods(Twin(embedded, **options), METHODS) == {}


@pytest.mark.parametrize("options", parsers(), ids=named)
def test_async_method_of_redis_py_gives_the_same_guarded_as_raw(
    embedded: RealServer, options: dict[str, Any]
) -> None:
    """But for those that the async client has not."""
    methods = {name: item for name, item in METHODS.items() if name not in SYNC_ONLY}
    with awaiting() as runner:
        twin = AsyncTwin(embedded, runner, **options)
        found = differing_methods(twin, methods)
        twin.close()
    assert found == {}


def differing_methods(twin: Twin, methods: dict[str, Callable[[redis.Redis], Any]]) -> Any:
    found = {}
    for name, method in methods.items():
        outcomes = [twin.outcome_of_method(client, method) for client in (twin.raw, twin.guarded)]
        text = difference("", *outcomes)
        if text is not None:
            found[name] = text
    return found


def test_command_that_the_server_lacks_is_refused(server: RealServer) -> None:
    """The shipped table is of several servers, and a guard is for the commands of its own."""
    twin = Twin(server)
    own = read_table(twin.admin)
    lacking = [
        spec.name for spec in load_table() if spec.refused is None and not own.get(spec.name)
    ]

    for name in lacking:
        answered = answer(partial(twin.guarded.execute_command, name, "t:hash", "x"))
        assert answered[0] is CommandRefusedError, name


def test_error_of_the_users_own_rights_is_as_raw(server: RealServer) -> None:
    """An agent with a user of its own sees what that user may not do, and so does the trail."""
    twin = Twin(server, username="limited", password="pw")
    twin.admin.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-set")

    raw, guarded = (answer(partial(client.set, "t:a", "x")) for client in (twin.raw, twin.guarded))
    assert raw[0] is redis.exceptions.NoPermissionError
    assert guarded == raw
    last: Any = twin.admin.xrevrange("keyleash:audit:one", count=1)
    assert b"error" in last[0][1][::2]


@pytest.mark.parametrize("wire", WIRES, ids=named)
def test_bitfield_of_a_width_that_lua_rounds_is_refused(
    server: RealServer, wire: dict[str, Any]
) -> None:
    """A Lua number holds 53 bits, and what SET replaced cannot be read again."""
    twin = Twin(server, **wire)
    before = twin.admin.get("t:bits")

    for operations in (
        ("SET", "i64", 0, 2**53 + 1, "GET", "i64", 0),
        ("GET", "u8", 0, "OVERFLOW", "FAIL", "INCRBY", "u63", "#1", 1),
        (b"get\0x", "u8", 0, "GET", "i54", 0),
    ):
        with pytest.raises(CommandRefusedError) as refused:
            twin.guarded.execute_command("BITFIELD", "t:bits", *operations)
        assert refused.value.details["command"].startswith("BITFIELD ")
    assert twin.admin.get("t:bits") == before


@pytest.mark.parametrize("wire", WIRES, ids=named)
def test_value_of_a_megabyte_comes_and_goes_unchanged(
    server: RealServer, wire: dict[str, Any]
) -> None:
    """Every byte passes through Lua, twice."""
    twin = Twin(server, **wire)
    value = bytes(range(256)) * 4096

    assert twin.guarded.set("t:new", value) is True
    assert twin.guarded.get("t:new") == value == twin.admin.get("t:new")
    for transaction in (False, True):
        pipe: Any = twin.guarded.pipeline(transaction=transaction)
        assert pipe.set("t:two", value).append("t:two", value).get("t:two").execute() == [
            True,
            2 * len(value),
            2 * value,
        ]
        twin.admin.delete("t:two")
