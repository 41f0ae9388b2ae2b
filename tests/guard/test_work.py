"""Calls that are too much work, and strings that would be too long, are denied before they run."""

from __future__ import annotations

from typing import Any

import pytest

import keyleash
from keyleash.commands.spec import OperationClass
from keyleash.commands.work import READS, RETURNS, each
from keyleash.evaluate.evaluate import decide
from keyleash.policy import parse_policy
from keyleash.store.store import Store
from proofs.oracle.data import model_state
from support.leash import NAMES, Leash, grant, policy
from support.servers import RealServer

ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", "scan", keys="doc:*")]}
BUDGETED: dict[str, Any] = {**ALL, "budget": {"requests": "1000/day"}}
MEMBERS = 120_000


def fill(admin: Any, command: str, key: str, count: int, *, scored: bool = False) -> None:
    """Give a key *count* elements."""
    admin.eval(
        "for first = 1, tonumber(ARGV[2]), 3000 do local words = {}"
        " for i = first, math.min(first + 2999, tonumber(ARGV[2])) do"
        " if ARGV[3] == '1' then words[#words + 1] = i end words[#words + 1] = 'm' .. i end"
        " redis.call(ARGV[1], KEYS[1], unpack(words)) end",
        1,
        key,
        command,
        count,
        int(scored),
    )


@pytest.fixture
def huge(server: RealServer) -> Leash:
    """Keys with more elements than one call may handle, an identity that may use them."""
    leash = Leash(server)
    leash.load(one=ALL)
    fill(leash.admin, "RPUSH", "doc:{d}list", MEMBERS)
    fill(leash.admin, "SADD", "doc:{d}set", MEMBERS)
    fill(leash.admin, "ZADD", "doc:{d}zset", MEMBERS, scored=True)
    fill(leash.admin, "HSET", "doc:{d}hash", MEMBERS, scored=True)
    leash.admin.eval(
        "for i = 1, 60000 do redis.call('XADD', KEYS[1], i .. '-1', 'f', 'v') end"
        " redis.call('XGROUP', 'CREATE', KEYS[1], 'g', '0')"
        " for i = 1, 30000 do redis.call('GEOADD', KEYS[2], i % 300 / 1e4, i / 300 / 1e4, i) end",
        2,
        "doc:{d}stream",
        "doc:{d}geo",
    )
    leash.admin.set("doc:{d}a", b"a" * 20_000)
    return leash


TOO_MUCH = [
    ("HGETALL", "doc:{d}hash"),
    ("HKEYS", "doc:{d}hash"),
    ("SMEMBERS", "doc:{d}set"),
    ("SINTER", "doc:{d}set", "doc:{d}set"),
    ("SUNIONSTORE", "doc:{d}new", "doc:{d}set"),
    ("ZRANGE", "doc:{d}zset", "0", "-1"),
    ("ZRANGEBYSCORE", "doc:{d}zset", "-inf", "+inf"),
    ("ZUNIONSTORE", "doc:{d}new", "2", "doc:{d}zset", "doc:{d}zset"),
    ("GEOSEARCH", "doc:{d}geo", "FROMLONLAT", "0", "0", "BYRADIUS", "100", "km"),
    ("SORT", "doc:{d}list", "ALPHA", "LIMIT", "0", "1"),
    ("XRANGE", "doc:{d}stream", "-", "+"),
    ("XREAD", "STREAMS", "doc:{d}stream", "0"),
    ("SRANDMEMBER", "doc:{d}set", "-100000"),
    ("SSCAN", "doc:{d}set", "0", "COUNT", "100000"),
    ("LCS", "doc:{d}a", "doc:{d}a"),
    ("COPY", "doc:{d}hash", "doc:{d}new"),
]

SMALL = [
    ("LRANGE", "doc:{d}list", "0", "99"),
    ("LRANGE", "doc:{d}list", "-100", "-1"),
    ("LPOP", "doc:{d}list", "10"),
    ("LINDEX", "doc:{d}list", "60000"),
    ("ZRANGEBYSCORE", "doc:{d}zset", "5000", "5100"),
    ("ZRANGEBYSCORE", "doc:{d}zset", "-inf", "+inf", "LIMIT", "0", "50"),
    ("ZRANGE", "doc:{d}zset", "0", "+inf", "BYSCORE", "LIMIT", "100", "50"),
    ("ZREVRANGE", "doc:{d}zset", "0", "9", "WITHSCORES"),
    ("ZRANGE", "doc:{d}zset", "-10", "-1"),
    ("ZPOPMIN", "doc:{d}zset", "10"),
    ("ZCOUNT", "doc:{d}zset", "-inf", "+inf"),
    ("XREAD", "COUNT", "100", "STREAMS", "doc:{d}stream", "0"),
    ("XREAD", "STREAMS", "doc:{d}stream", "59990-1"),
    ("XREAD", "STREAMS", "doc:{d}stream", "$"),
    ("XREVRANGE", "doc:{d}stream", "+", "-", "COUNT", "10"),
    ("XREADGROUP", "GROUP", "g", "c", "COUNT", "100", "STREAMS", "doc:{d}stream", ">"),
    ("HSCAN", "doc:{d}hash", "0", "COUNT", "100"),
    ("HSCAN", "doc:{d}hash", "0", "MATCH", "*m1*", "COUNT", "100"),
    ("HMGET", "doc:{d}hash", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"),
    ("SSCAN", "doc:{d}set", "0"),
    ("SRANDMEMBER", "doc:{d}set", "5"),
    ("SRANDMEMBER", "doc:{d}set", "-5"),
    ("SPOP", "doc:{d}set"),
    (
        *("GEOSEARCH", "doc:{d}geo", "FROMLONLAT", "0", "0", "BYRADIUS", "9", "km"),
        *("COUNT", "10", "ANY"),
    ),
    ("MEMORY", "USAGE", "doc:{d}hash"),
    ("BITCOUNT", "doc:{d}a"),
    ("SINTERCARD", "2", "doc:{d}set", "doc:{d}missing"),
]


def test_call_that_is_too_much_work_is_denied_and_a_small_one_passes(huge: Leash) -> None:
    """Small ranges, counts and the newest entries of huge keys pass; `explain` agrees."""
    token = huge.issue("one").token
    identity = parse_policy(policy(one=ALL), file="p", commands=huge.server.table).identities[0]
    store = Store(huge.at("{d}"), NAMES)

    def explained(argv: tuple[str, ...]) -> str:
        words = [word.encode() for word in argv]
        keys = [word for word in words if word.startswith(b"doc:")]
        state = model_state(store)
        return str(decide(identity, huge.server.table, words, keys, state, 0, "x").code)

    for argv in SMALL:
        assert explained(argv) == "None", argv
        assert "LEASH" not in str(huge.call("one", token, *argv)), argv
    for argv in TOO_MUCH:
        assert explained(argv) == "WORK_TOO_LARGE", argv
        assert huge.call("one", token, *argv).startswith("LEASH WORK_TOO_LARGE command="), argv
        mode = huge.batch("one", token, "each", ("PING",), argv)
        assert mode[1].startswith("LEASH WORK_TOO_LARGE"), argv


def test_denied_work_is_not_charged_and_leaves_no_event(server: RealServer) -> None:
    """The denial comes before the limits and the event; the client's error has the numbers."""
    leash = Leash(server)
    leash.load(one=BUDGETED)
    fill(leash.admin, "SADD", "doc:{d}set", MEMBERS)
    agent: Any = leash.agent("one")
    agent.ping()
    before = leash.spent("one")

    with pytest.raises(keyleash.WorkTooLargeError) as denied:
        agent.sunionstore("doc:{d}new", "doc:{d}set")
    with pytest.raises(keyleash.ValueTooLargeError) as too_long:
        agent.setrange("doc:{d}string", 64 * 1024 * 1024, "x")

    assert denied.value.work > denied.value.limit == 250_000
    assert denied.value.details["command"] == "SUNIONSTORE"
    assert too_long.value.bytes == 64 * 1024 * 1024 + 1
    assert too_long.value.limit == 16 * 1024 * 1024
    assert too_long.value.details["key"] == "doc:{d}string"
    assert leash.spent("one") == before
    assert leash.events("one") == []
    assert not leash.admin.exists("doc:{d}new", "doc:{d}string")


def test_policy_sets_how_much_work_a_call_may_be(server: RealServer) -> None:
    """A lower bound denies what the default allows, a higher one allows what it denies."""
    leash = Leash(server)
    leash.load(
        low={**ALL, "limits": {"work": 1000}},
        usual=ALL,
        high={**ALL, "limits": {"work": 5_000_000, "strings": 200_000}},
    )
    fill(leash.admin, "SADD", "doc:few", 1000)
    fill(leash.admin, "SADD", "doc:many", MEMBERS)

    def sizes(identity: str) -> list[Any]:
        token = leash.issue(identity).token
        replies = [leash.call(identity, token, "SMEMBERS", key) for key in ("doc:few", "doc:many")]
        return [len(reply) if isinstance(reply, list | set) else reply[:20] for reply in replies]

    assert sizes("low") == ["LEASH WORK_TOO_LARGE"] * 2
    assert sizes("usual") == [1000, "LEASH WORK_TOO_LARGE"]
    assert sizes("high") == [1000, MEMBERS]


def test_commands_of_a_batch_share_one_bound(server: RealServer) -> None:
    """Each mode: the commands that exceed it are denied, or the batch with the first of them."""
    leash = Leash(server)
    leash.load(one=ALL)
    fill(leash.admin, "SADD", "doc:set", 1900)
    token = leash.issue("one").token
    calls = [("SCARD", "doc:set"), *[("SMEMBERS", "doc:set")] * 6, ("PING",)]

    each = leash.batch("one", token, "each", *calls)
    whole = leash.batch("one", token, "all", *calls)

    assert [len(reply) for reply in each[1:6]] == [1900] * 5
    assert each[6].startswith("LEASH WORK_TOO_LARGE command=SMEMBERS ")
    assert each[7] in (b"PONG", True)
    assert whole.startswith("LEASH WORK_TOO_LARGE command=SMEMBERS ")
    assert whole.endswith(" item=7")


def test_merges_into_a_sparse_sketch_share_the_bound_of_a_batch(server: RealServer) -> None:
    """Each is written register by register, though neither key is long."""
    leash = Leash(server)
    leash.load(one=ALL)
    token = leash.issue("one").token
    leash.admin.pfadd("doc:{d}sparse", *range(100))

    replies = leash.batch("one", token, "each", *[("PFMERGE", "doc:{d}to", "doc:{d}sparse")] * 100)

    denied = [str(reply).startswith("LEASH WORK_TOO_LARGE") for reply in replies]
    assert denied.index(True) in range(12, 16)
    assert all(denied[16:])


def test_long_pattern_of_sort_is_denied_before_it_is_compared(server: RealServer) -> None:
    """A grant may cover it or not, and the key may have one element."""
    leash = Leash(server)
    leash.load(one=ALL)
    token = leash.issue("one").token
    leash.admin.rpush("doc:list", "a")

    for beginning in ("doc:", "other:"):
        denied = leash.call(
            "one", token, "SORT", "doc:list", "GET", f"{beginning}*{'x' * 1_000_000}"
        )
        assert str(denied).startswith("LEASH WORK_TOO_LARGE command=SORT ")


@pytest.mark.parametrize("elements", [300, 2900, 3000, 3300, 5000])
def test_sort_that_reads_one_long_string_for_each_element_is_denied(
    server: RealServer, elements: int
) -> None:
    """Also where the number of strings alone nearly uses the work up."""
    leash = Leash(server)
    leash.load(one=ALL)
    token = leash.issue("one").token
    leash.admin.set("doc:long", b"x" * 1_000_000)
    leash.admin.rpush("doc:list", *["long"] * elements)

    denied = leash.call("one", token, "SORT", "doc:list", "BY", "nosort", "GET", "doc:*")

    assert str(denied).startswith("LEASH WORK_TOO_LARGE command=SORT ")


def test_batch_that_makes_keys_large_is_stopped_in_place(server: RealServer) -> None:
    """Commands that ran have effect, the remaining replies are denials, and the event agrees."""
    leash = Leash(server)
    leash.load(one=ALL)
    fill(leash.admin, "SADD", "doc:{d}set", 4000)
    token = leash.issue("one").token
    grow = ("RENAME", "doc:{d}set", "doc:{d}moved")
    read = ("SMEMBERS", "doc:{d}moved")

    replies = leash.batch("one", token, "all", grow, *[read] * 4, ("SET", "doc:{d}late", "v"))

    assert replies[0] in (True, b"OK")
    assert len(replies[1]) == 4000
    assert all(str(reply).startswith("LEASH WORK_TOO_LARGE") for reply in replies[3:5]), replies
    assert leash.admin.exists("doc:{d}moved")
    # A write of an atomic batch is not left out because of the replies of others.
    assert leash.admin.exists("doc:{d}late")


def test_long_strings_are_read_until_the_bound(server: RealServer) -> None:
    """All replies of a batch are held until the last one, so their bytes count together."""
    leash = Leash(server)
    leash.load(one=ALL)
    leash.admin.set("doc:long", b"x" * 1_000_000)
    token = leash.issue("one").token

    few = leash.batch("one", token, "all", *[("GET", "doc:long")] * 8)
    many = leash.batch("one", token, "each", *[("GET", "doc:long")] * 100)
    whole = leash.batch("one", token, "all", *[("GET", "doc:long")] * 100)

    assert [len(reply) for reply in few] == [1_000_000] * 8
    passed = [reply for reply in many if isinstance(reply, bytes)]
    assert 8 <= len(passed) <= 16
    assert all(
        reply.startswith("LEASH WORK_TOO_LARGE command=GET") for reply in many[len(passed) :]
    )
    assert whole.startswith("LEASH WORK_TOO_LARGE command=GET ")


@pytest.mark.parametrize("words", [("y", "GET"), ("y", "NX", "get")], ids=" ".join)
def test_old_values_that_set_returns_are_read_until_the_bound(
    server: RealServer, words: tuple[str, ...]
) -> None:
    """As those of GETSET; a plain SET of the batch is made all the same."""
    leash = Leash(server)
    leash.load(one=ALL)
    keys = [f"doc:{{d}}{number}" for number in range(40)]
    token = leash.issue("one").token
    for count in (16, 40):
        leash.admin.mset(dict.fromkeys(keys, b"x" * 1_000_000))
        sets = [("SET", key, *words) for key in keys[:count]]
        replies = leash.batch("one", token, "each", *sets, ("SET", "doc:{d}late", "1"))
        passed = [reply for reply in replies if isinstance(reply, bytes) and len(reply) == 10**6]
        assert 8 <= len(passed) <= 12
        assert all(reply.startswith("LEASH WORK_TOO_LARGE") for reply in replies[12:count])
        assert leash.admin.get("doc:{d}late") == b"1"
    assert len(leash.batch("one", token, "all", *[("SET", "doc:{d}s", *words)] * 500)) == 500


def test_commands_that_change_a_key_and_return_its_value_are_known(server: RealServer) -> None:
    """Of all commands with both classes; a batch leaves them out when its work is used up."""
    unknown = {
        spec.name
        for spec in server.table
        if not (spec.refused or spec.work) and spec.mutates and OperationClass.READ in spec.needs
    } - (RETURNS | READS.keys() | SHORT)
    assert unknown == set()


SHORT = each(
    "CMS.INCRBY DECR DECRBY HINCRBY HINCRBYFLOAT INCR INCRBY INCRBYFLOAT RENAME RENAMENX SETBIT"
    " SMOVE TS.CREATERULE TS.DELETERULE VREM VSETATTR ZINCRBY",
    0,
).keys()
"""They return numbers, or that they ran; those with an estimate of their work are weighed."""


BOUND = 4096
LONG = "x" * (BOUND + 1)
LENGTHENING: dict[str, tuple[Any, ...]] = {
    "SET": ("SET", "doc:{d}s", LONG),
    "SETEX": ("SETEX", "doc:{d}s", "10", LONG),
    "PSETEX": ("PSETEX", "doc:{d}s", "10", LONG),
    "GETSET": ("GETSET", "doc:{d}s", LONG),
    "SETNX": ("SETNX", "doc:{d}s", LONG),
    "MSET": ("MSET", "doc:{d}a", "v", "doc:{d}s", LONG),
    "MSETNX": ("MSETNX", "doc:{d}a", "v", "doc:{d}s", LONG),
    "MSETEX": ("MSETEX", "2", "doc:{d}a", "v", "doc:{d}s", LONG),
    "APPEND": ("APPEND", "doc:{d}full", "x"),
    "SETRANGE": ("SETRANGE", "doc:{d}s", str(BOUND), "x"),
    "SETBIT": ("SETBIT", "doc:{d}s", str(8 * BOUND), "1"),
    "BITFIELD": ("BITFIELD", "doc:{d}s", "GET", "u8", "0", "SET", "u8", f"#{BOUND}", "1"),
    "BITOP": ("BITOP", "NOT", "doc:{d}s", "doc:{d}longer"),
    "COPY": ("COPY", "doc:{d}longer", "doc:{d}s"),
}
AS_LONG: dict[str, tuple[Any, ...]] = {
    "SET": ("SET", "doc:{d}s", LONG[1:]),
    "APPEND": ("APPEND", "doc:{d}full", ""),
    "SETRANGE": ("SETRANGE", "doc:{d}s", str(BOUND - 1), "x"),
    "SETBIT": ("SETBIT", "doc:{d}s", str(8 * BOUND - 1), "1"),
    "BITFIELD": ("BITFIELD", "doc:{d}s", "SET", "u8", f"#{BOUND - 1}", "1"),
    "BITOP": ("BITOP", "NOT", "doc:{d}s", "doc:{d}full"),
    "COPY": ("COPY", "doc:{d}full", "doc:{d}other"),
}
BOUNDED: dict[str, Any] = {
    "grants": [
        {**grant("read", "write", "delete", keys="doc:*"), "values": {"max_bytes": "1mb"}},
        {**grant("read", keys=["doc:{{d}}s", "doc:{{d}}full"]), "values": {"max_bytes": "4kb"}},
        grant("write", keys="doc:*", only=["RESTORE"]),
    ],
    "budget": {"requests": "1000/day"},
}


def test_string_that_a_call_makes_too_long_is_denied(server: RealServer) -> None:
    """By the smallest bound of the grants that match the key, for each kind of command."""
    leash = Leash(server)
    leash.load(one=BOUNDED)
    leash.admin.set("doc:{d}full", "x" * BOUND)
    leash.admin.set("doc:{d}longer", LONG)
    agent: Any = leash.agent("one")
    agent.ping()
    before = leash.spent("one")

    for name, argv in LENGTHENING.items():
        if name not in server.table.commands:
            continue
        with pytest.raises(keyleash.ValueTooLargeError) as denied:
            agent.execute_command(*argv)
        assert (denied.value.bytes, denied.value.limit) == (BOUND + 1, BOUND), name
    with pytest.raises(keyleash.ValueTooLargeError):
        agent.restore("doc:{d}s", 0, LONG)
    assert leash.spent("one") == before
    assert leash.events("one") == []

    for name, argv in AS_LONG.items():
        agent.execute_command(*argv)
        assert leash.admin.strlen("doc:{d}s") <= BOUND, name
    agent.set("doc:{d}wide", LONG)
    batch = agent.pipeline(transaction=False)
    batch.set("doc:{d}s", LONG).set("doc:{d}wide", LONG)
    replies = batch.execute(raise_on_error=False)
    assert isinstance(replies[0], keyleash.ValueTooLargeError)
    assert replies[1] is True


MB = 1024 * 1024


@pytest.mark.parametrize(
    "first",
    [
        ("SET", "doc:{d}s", "x"),
        ("MSET", "doc:{d}o", "", "doc:{d}s", "x"),
        ("GETSET", "doc:{d}s", "x"),
    ],
    ids=lambda words: words[0],
)
def test_commands_of_a_batch_make_no_string_longer_than_the_default(
    server: RealServer, first: tuple[str, ...]
) -> None:
    """All are checked before the first one runs, so those before count as well."""
    leash = Leash(server)
    leash.load(one=ALL)
    agent: Any = leash.agent("one")
    half = "x" * (8 * MB + 1)

    batch = agent.pipeline(transaction=True)
    batch.execute_command(*first[:-1], half)
    batch.append("doc:{d}s", half)
    with pytest.raises(keyleash.ValueTooLargeError) as denied:
        batch.execute()

    assert (denied.value.bytes, denied.value.limit) == (16 * MB + 2, 16 * MB)
    assert not leash.admin.exists("doc:{d}s")


def test_batch_whose_commands_lack_arguments_answers_each_with_its_own_error(
    server: RealServer,
) -> None:
    """The words behind a command of a batch are the next command, not its arguments."""
    leash = Leash(server)
    leash.load(one={"grants": [*ALL["grants"], grant("write", keys="doc:*", only=["RESTORE"])]})
    token = leash.issue("one").token
    short = [
        ("RESTORE", "doc:{d}new", "0"),
        ("SET", "doc:{d}a"),
        ("LRANGE", "doc:{d}l", "0"),
        ("APPEND",),
    ]

    replies = leash.batch(
        "one", token, "each", ("SET", "doc:{d}b", "x"), *short, ("GET", "doc:{d}b")
    )

    assert replies[0] == b"OK"
    assert all("wrong number of arguments" in reply for reply in replies[1:-1]), replies
    assert replies[-1] == b"x"
