"""A server that cannot write, or not even read: a guard acts whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import randbytes
from typing import Any

import pytest
import redis

from keyleash.addons.servers import EmbeddedServer
from keyleash.commands import load_table
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.records import guard_record
from keyleash.store.token import TokenRecord, token_digest
from keyleash.store.wire import BatchMode, batch_call, guard_call
from support.clustered import NODES
from support.distress import (
    DISTRESSES,
    FULL_DISK,
    Distress,
    full_memory,
    loading,
    read_only_replica,
)
from support.keyspaces import whole_keyspace
from support.leash import NAMES, Leash, grant, policy
from support.servers import RealServer, find_server_binaries

GRANTS = [grant("read", "write", "delete", keys=["k:*", "{{{w}}}:of"])]
IDENTITIES: dict[str, dict[str, Any]] = {
    "counted": {
        "grants": GRANTS,
        "rate": {"requests": "1000/minute", "writes": {"limit": "100/second", "burst": 100}},
        "budget": {"requests": "100000/month"},
    },
    "by_segment": {"grants": GRANTS, "rate": {"requests": {"limit": "1000/minute", "per": "{w}"}}},
    "by_token": {"grants": GRANTS, "budget": {"requests": {"limit": "100/day", "per": "token"}}},
    "idling": {"grants": GRANTS, "token": {"ttl": "1h", "idle": "15m"}},
    "writing": {
        "grants": GRANTS,
        "rate": {"writes": {"limit": "100/second", "burst": 100}, "deletes": "100/minute"},
        "budget": {"writes": "100000/month"},
    },
    "free": {"grants": GRANTS, "audit": {"before_images": {"max_bytes": "64kb"}}},
}
UNCOUNTED = ("free", "idling", "writing")
"""Identities whose reads are not counted."""

READ = ("GET", "k:{w1}a")
OWN_READ = ("GET", "{w1}:of")
CHANGES: list[tuple[str, ...]] = [
    ("SET", "k:{w1}a", "new"),
    ("SET", "{w1}:of", "new"),
    ("DEL", "k:{w1}a"),
    ("EXPIRE", "k:{w1}a", "100"),
    ("LMOVE", "k:{w1}list", "k:{w1}a2", "LEFT", "RIGHT"),
    ("BLPOP", "k:{w1}list", "0"),
    ("XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", "k:{w1}stream", ">"),
]
REFUSED = ("GET", "{w1}elsewhere")


class Agents:
    """An agent of each identity, whose calls are made out before the server is in distress."""

    def __init__(self, leash: Leash) -> None:
        self.leash = leash
        leash.load(policy(**IDENTITIES))
        self.tokens = {name.replace("_", "-"): "" for name in IDENTITIES}
        for name in self.tokens:
            self.tokens[name] = leash.issue(name).token
        self._age("idling")
        records = {name: guard_record(leash.admin.hgetall(NAMES.guard(name))) for name in self}
        self._digests = {
            name: (record.digest, record.batch_digest)
            for name, record in records.items()
            if record is not None
        }
        leash.admin.mset({"k:{w1}a": "1", "{w1}:of": "1"})
        leash.admin.rpush("k:{w1}list", "1", "2")
        leash.admin.xgroup_create("k:{w1}stream", "g", mkstream=True)
        leash.admin.xadd("k:{w1}stream", {"f": "v"})
        for name in self if NODES else ():
            # A token is known to a shard from its first call on.
            self.call(name, READ)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tokens)

    def _age(self, name: str) -> None:
        """Set the token's last use far enough back that the next use is recorded."""
        key = NAMES.token(name, token_digest(self.tokens[name]))
        record = TokenRecord.unpack(self.leash.admin.get(key))
        aged = replace(record, used_us=record.used_us - 60_000_000)
        self.leash.admin.set(key, aged.pack(), keepttl=True)

    def call(self, name: str, command: Sequence[str], where: redis.Redis | None = None) -> Any:
        """One call of the guard, on the agents' own server or on another; an error is returned."""
        digest, _ = self._digests[name]
        call = guard_call(load_table(), digest, self.tokens[name], "c", command)
        return self._send(name, call, where)

    def batch(self, name: str, mode: BatchMode, *commands: Sequence[str]) -> Any:
        _, digest = self._digests[name]
        call = batch_call(load_table(), digest, self.tokens[name], "c", mode, commands)
        return self._send(name, call)

    def _send(self, name: str, call: Sequence[Any], where: redis.Redis | None = None) -> Any:
        try:
            return self.leash.send(name, call) if where is None else where.execute_command(*call)
        except redis.RedisError as error:
            return error


@pytest.fixture
def agents(leash: Leash) -> Agents:
    return Agents(leash)


def code_of(reply: Any) -> str:
    """The code that the server's error began with; redis-py takes some of them off."""
    match reply:
        case redis.exceptions.OutOfMemoryError():
            return "OOM"
        case redis.exceptions.ReadOnlyError():
            return "READONLY"
        case redis.exceptions.MasterDownError():
            return "MASTERDOWN"
        case redis.exceptions.BusyLoadingError():
            return "LOADING"
        case redis.ResponseError():
            return str(reply).split(" ", 1)[0]
    return f"no error: {reply!r}"


@pytest.fixture(params=DISTRESSES, ids=str)
def distress(request: pytest.FixtureRequest) -> Distress:
    found: Distress = request.param
    if found.name == "full-disk" and not FULL_DISK.exists():
        pytest.skip("there is no /dev/full")
    return found


def test_what_the_server_refuses_is_refused_whole(agents: Agents, distress: Distress) -> None:
    """Not a byte of any key differs afterwards: nothing ran, counted, or was recorded."""
    before = whole_keyspace(agents.leash.admin)
    replies: dict[tuple[str, ...], str] = {}
    with distress.begin(agents.leash.server):
        for name in agents:
            for command in CHANGES:
                replies[name, *command] = code_of(agents.call(name, command))
            for mode in (BatchMode.EACH, BatchMode.ALL):
                replies[name, "batch", mode] = code_of(
                    agents.batch(name, mode, READ, OWN_READ, *CHANGES)
                )
        for name in ("counted", "by-segment", "by-token"):
            replies[name, *OWN_READ] = code_of(agents.call(name, OWN_READ))

    assert replies == dict.fromkeys(replies, distress.code)
    assert whole_keyspace(agents.leash.admin) == before


def test_reads_that_count_towards_nothing_work_where_the_server_reads(
    agents: Agents, distress: Distress
) -> None:
    """Also in batches, and with a token whose time of use cannot be noted."""
    before = whole_keyspace(agents.leash.admin)
    with distress.begin(agents.leash.server):
        for name in UNCOUNTED:
            read = agents.call(name, READ)
            some = agents.batch(name, BatchMode.EACH, READ, REFUSED, READ)
            if distress.reads:
                assert read == b"1"
                assert some[0] == some[2] == b"1"
                assert str(some[1]) == "LEASH KEY_NOT_GRANTED key=%7Bw1%7Delsewhere"
            else:
                assert code_of(read) == code_of(some) == distress.code

    assert whole_keyspace(agents.leash.admin) == before


def test_refusal_of_the_guard_stays_one(agents: Agents, distress: Distress) -> None:
    """Where the guard can look at its state at all, it says what it would say anyway."""
    before = whole_keyspace(agents.leash.admin)
    with distress.begin(agents.leash.server):
        for name in agents:
            refused = agents.call(name, REFUSED)
            all_or_none = agents.batch(name, BatchMode.ALL, READ, REFUSED)
            if distress.reads:
                assert str(refused) == "LEASH KEY_NOT_GRANTED key=%7Bw1%7Delsewhere"
                assert str(all_or_none) == "LEASH KEY_NOT_GRANTED key=%7Bw1%7Delsewhere item=2"
            else:
                assert code_of(refused) == code_of(all_or_none) == distress.code

    assert whole_keyspace(agents.leash.admin) == before


def test_agent_goes_on_when_the_distress_is_over(agents: Agents, distress: Distress) -> None:
    """The numbers of its events have no gap: a failed call takes none."""
    agents.call("counted", CHANGES[0])
    with distress.begin(agents.leash.server):
        agents.call("counted", CHANGES[0])
    agents.call("counted", CHANGES[0])

    assert [event["seq"] for event in agents.leash.events("counted")] == ["1", "2"]


@pytest.mark.parametrize(
    ("begin", "error"),
    [
        (full_memory, redis.exceptions.OutOfMemoryError),
        (read_only_replica, redis.exceptions.ReadOnlyError),
    ],
    ids=["full-memory", "read-only-replica"],
)
def test_wrapper_raises_the_servers_own_error(leash: Leash, begin: Any, error: Any) -> None:
    """Code that catches redis-py's errors keeps working."""
    leash.load(one=IDENTITIES["counted"])
    agent = leash.agent("one")
    agent.set("k:{w1}a", "1")

    with begin(leash.server), pytest.raises(error):
        agent.set("k:{w1}a", "2")
    assert agent.get("k:{w1}a") == b"1"


def test_call_in_which_memory_becomes_full_is_made_whole(agents: Agents) -> None:
    """The server looks at its memory when a script begins, and never between its commands."""
    admin, name = agents.leash.admin, "counted"
    grows = [("SETRANGE", "k:{w1}1", "1000000", "x"), ("SETRANGE", "k:{w1}2", "1000000", "x")]
    admin.config_set("maxmemory", admin.info("memory")["used_memory"] + 500_000)
    try:
        replies = agents.batch(name, BatchMode.EACH, *grows, ("SET", "k:{w1}3", "x"))
        assert admin.info("memory")["used_memory"] > admin.info("memory")["maxmemory"]
        refused = agents.call(name, ("SET", "k:{w1}4", "x"))
    finally:
        admin.config_set("maxmemory", 0)

    assert replies == [1_000_001, 1_000_001, b"OK"]
    assert code_of(refused) == "OOM"
    assert admin.exists("k:{w1}1", "k:{w1}2", "k:{w1}3", "k:{w1}4") == 3
    [event] = agents.leash.events(name)
    assert event["policy"].endswith(" 3,3w")


def test_full_memory_does_not_keep_an_agent_from_being_stopped(leash: Leash) -> None:
    """It may be this agent that filled it: revoking and suspending take effect, on record."""
    leash.load(one=IDENTITIES["free"], two=IDENTITIES["free"])
    first, second = leash.issue("one"), leash.issue("two")

    with full_memory(leash.server):
        assert [item.id for item in revoke(leash.store, token_id=first.id).tokens] == [first.id]
        assert freeze(leash.store, "two", reason="x").identities[0].changed
        assert leash.call("one", first.token, *READ) == "LEASH TOKEN_REVOKED"
        assert leash.call("two", second.token, *READ) == "LEASH SUSPENDED reason=x"
    did = [fields[b"event"] for _, fields in leash.admin.xrange(NAMES.control)]
    assert did[-2:] == [b"revoke", b"freeze"]


def test_server_that_is_loading_refuses_and_then_has_what_it_loaded(leash: Leash) -> None:
    """A replica that loads its primary's data has no token and no limit: it denies all calls."""
    binary = find_server_binaries()[leash.server.label]
    with EmbeddedServer(binary=binary) as process:
        primary = RealServer(leash.server.label, process)
        agents = Agents(Leash(primary))
        agents.leash.admin.mset({f"k:{{w1}}{number}": randbytes(1024) for number in range(1_000)})
        before = whole_keyspace(agents.leash.admin)
        with loading(leash.server, primary):
            replies = [
                code_of(agents.call(name, command, leash.admin))
                for name in agents
                for command in (READ, CHANGES[0], REFUSED)
            ]
        primary.close_clients()

    assert replies == ["LOADING"] * len(replies)
    assert whole_keyspace(leash.admin) == before
