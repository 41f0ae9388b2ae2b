"""A watcher loads guards on every server, and reports drift."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import keyleash
from client.alike import AsyncLeash
from keyleash.store import deployment
from keyleash.store.guards import not_loaded
from keyleash.watch.events import WatchEvent, WatchEventKind, WatchState
from keyleash.watch.watcher import Watcher
from support.leash import NAMES, Leash, grant
from support.replication import Node, nodes, wait_until
from support.sentinels import SERVICE, sentinels
from support.servers import embedded_label, find_server_binaries

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="t:*")]}
READ: dict[str, Any] = {"grants": [grant("read", keys="t:*")]}
AGENT = ("on", ">pw", "~*", "+@all", "-script|load", "-script|flush")

Pair = tuple[Node, Node]


@pytest.fixture
def trio() -> Iterator[list[Node]]:
    """A primary and two replicas, which a test may stop; one server version is enough."""
    with nodes(find_server_binaries()[embedded_label()], 3) as servers:
        yield servers


def watcher_of(*seeds: Node) -> Watcher:
    return Watcher(redis.Redis(), [redis.Redis(*seed.address) for seed in seeds])


def events_of(watcher: Watcher) -> list[tuple[str, str, str]]:
    """Return node, kind and state of each event of one look."""
    return [(item.node, str(item.kind), str(item.state)) for item in watcher.look()]


def drifts(watcher: Watcher) -> dict[str, str]:
    return {str(drift.kind): drift.node for drift in watcher.drifts}


def name(node: Node) -> str:
    return f"127.0.0.1:{node.port}"


def loaded_on(node: Node, identity: str) -> list[bool]:
    record = node.admin.hgetall(NAMES.guard(identity))
    found: list[bool] = node.admin.script_exists(record[b"digest"], record[b"batch_digest"])
    return found


def test_replica_has_the_guards_before_it_is_promoted(pair: Pair) -> None:
    """Scripts are not replicated; the watcher loads them on a replica, once."""
    primary, replica = pair
    leash = Leash(primary)
    leash.load(one=ALL, two=READ)
    primary.settle()
    watcher = watcher_of(primary)

    assert events_of(watcher) == [
        (name(primary), "role", "done"),
        (name(replica), "role", "done"),
        (name(replica), "loaded", "done"),
    ]
    assert loaded_on(replica, "one") == loaded_on(replica, "two") == [True, True]
    assert events_of(watcher) == []

    leash.load(one=READ, two=READ)
    primary.settle()
    assert events_of(watcher) == [(name(replica), "loaded", "done")]
    assert loaded_on(replica, "one") == [True, True]
    primary.admin.script_flush()
    assert events_of(watcher) == [(name(primary), "loaded", "done")]
    watcher.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_agent_without_script_load_continues_after_a_look(pair: Pair, kind: str) -> None:
    """Its call waits for the script, and runs once."""
    primary, _ = pair
    leash: Any = Leash(primary) if kind == "sync" else AsyncLeash(primary)
    leash.load(one=ALL)
    primary.admin.execute_command("ACL", "SETUSER", "agent", *AGENT)
    client = leash.agent("one", username="agent", password="pw")
    client.incr("t:n")
    primary.admin.script_flush()
    watcher = watcher_of(primary)
    looking = threading.Timer(0.1, lambda: events_of(watcher))
    looking.start()

    assert client.incr("t:n") == 2
    looking.join()
    assert len(leash.events("one")) == 2
    watcher.close()
    if isinstance(leash, AsyncLeash):
        leash.close()


def test_text_that_does_not_match_its_digest_is_never_loaded(pair: Pair) -> None:
    """A client that may write to the record must not run code as every agent."""
    primary, replica = pair
    leash = Leash(primary)
    leash.load(one=ALL)
    digest = leash.digest("one")
    text = leash.admin.hget(NAMES.source("one"), digest)
    leash.admin.hset(NAMES.source("one"), digest, "return redis.call(unpack(ARGV, 4))")
    leash.admin.hset(NAMES.source("one"), "0" * 40, "\xff")
    for node in pair:
        node.admin.script_flush()
    primary.settle()
    cached = replica.admin.info("memory")["number_of_cached_scripts"]
    watcher = watcher_of(primary)

    news = [item for item in watcher.look() if item.kind is WatchEventKind.SOURCE_CHANGED]
    assert {(new.node, new.subject) for new in news} == {
        (name(node), f"one {item}") for node in pair for item in (digest, "0" * 40)
    }
    assert loaded_on(replica, "one") == [False, True]
    assert replica.admin.info("memory")["number_of_cached_scripts"] == cached + 1

    leash.admin.hset(NAMES.source("one"), digest, text)
    leash.admin.hdel(NAMES.source("one"), "0" * 40)
    primary.settle()
    again = list(watcher.look())
    assert {item.state for item in again if item.kind is WatchEventKind.SOURCE_CHANGED} == {
        WatchState.RESOLVED
    }
    assert loaded_on(replica, "one") == [True, True]
    assert watcher.drifts == ()
    watcher.close()


def test_text_changed_after_the_comparison_is_not_loaded(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loaded text is the one that was compared."""
    primary, _ = pair
    leash = Leash(primary)
    leash.load(one=ALL)
    digest = leash.digest("one")
    leash.admin.script_flush()

    def changed_meanwhile(*args: Any) -> Any:
        leash.admin.hset(NAMES.source("one"), digest, "return 1")
        return not_loaded(*args)

    monkeypatch.setattr("keyleash.store.guards.not_loaded", changed_meanwhile)
    watcher = watcher_of(primary)
    events_of(watcher)
    assert loaded_on(primary, "one") == [False, True]
    watcher.close()


def test_record_without_a_text_is_reported(pair: Pair) -> None:
    """The guard works until the server restarts."""
    leash = Leash(pair[0])
    leash.load(one=ALL)
    leash.admin.delete(NAMES.source("one"))
    pair[0].settle()
    watcher = watcher_of(pair[0])

    news: list[WatchEvent] = [
        item for item in watcher.look() if item.kind is WatchEventKind.SOURCE_MISSING
    ]
    assert len(news) == 4
    assert leash.digest("one") in news[0].message
    watcher.close()


def test_replica_with_another_policy_is_reported(pair: Pair) -> None:
    """Not at once, because the new policy may be in transit."""
    primary, replica = pair
    leash = Leash(primary)
    leash.load(one=ALL)
    primary.settle()
    watcher = watcher_of(primary)
    events_of(watcher)
    replica.admin.config_set("replica-read-only", "no")
    try:
        replica.admin.hset(NAMES.policy, "generation", 7)
        assert events_of(watcher) == [(name(replica), "generation", "found")]
        assert events_of(watcher) == []
        replica.admin.hset(NAMES.policy, "generation", 1)
        assert events_of(watcher) == [(name(replica), "generation", "resolved")]
    finally:
        replica.admin.config_set("replica-read-only", "yes")
    leash.admin.hset(NAMES.policy, "generation", 2)
    primary.settle()
    replica.admin.config_set("replica-read-only", "no")
    replica.admin.hset(NAMES.policy, "generation", 1)
    assert events_of(watcher) == []
    assert events_of(watcher) == [(name(replica), "generation", "found")]
    replica.admin.config_set("replica-read-only", "yes")
    watcher.close()


def test_missing_policy_and_missing_permission_are_reported(pair: Pair) -> None:
    """Each has its own kind."""
    primary, replica = pair
    watcher = watcher_of(primary)
    events_of(watcher)
    assert drifts(watcher).keys() == {"no-policy"}
    watcher.close()

    Leash(primary).load(one=ALL)
    primary.admin.script_flush()
    primary.admin.execute_command("ACL", "SETUSER", "ops", "on", ">pw", "~*", "+@all", "-script")

    restricted = redis.Redis(*primary.address, username="ops", password="pw")
    watcher = Watcher(redis.Redis(), [restricted, redis.Redis(*replica.address)])
    events_of(watcher)
    assert drifts(watcher)["not-permitted"] == name(primary)
    watcher.close()


@pytest.mark.parametrize("field", ["digest", "generation"])
def test_corrupt_record_does_not_end_the_watcher(pair: Pair, field: str) -> None:
    """The other servers are watched."""
    leash = Leash(pair[0])
    leash.load(one=ALL)
    watcher = watcher_of(pair[0])
    leash.admin.hset(NAMES.guard("one"), "generation", "none")
    if field == "digest":
        leash.admin.hdel(NAMES.guard("one"), "digest")
    pair[0].settle()

    events_of(watcher)
    assert drifts(watcher).keys() == {"unreadable"}
    watcher.close()


@pytest.mark.slow
def test_watcher_follows_a_failover_from_node_to_node(trio: list[Node]) -> None:
    """It began with the primary alone; seeds are always watched."""
    primary, heir, other = trio
    Leash(primary).load(one=ALL)
    primary.settle()
    watcher = watcher_of(primary)
    events_of(watcher)
    primary.kill()
    wait_until(lambda: heir.admin.info("replication")["master_link_status"] == "down")
    wait_until(lambda: other.admin.info("replication")["master_link_status"] == "down")
    assert set(events_of(watcher)) == {
        (name(primary), "unreachable", "found"),
        (name(heir), "link-down", "found"),
        (name(other), "link-down", "found"),
    }

    heir.promote()
    other.follow(heir)
    news = events_of(watcher)
    assert (name(heir), "role", "done") in news
    assert (name(other), "role", "done") in news
    assert drifts(watcher) == {"unreachable": name(primary)}
    Leash(heir).load(one=READ)
    heir.settle()
    assert events_of(watcher) == [(name(other), "loaded", "done")]

    primary.process.start()
    assert set(events_of(watcher)) == {
        (name(primary), "unreachable", "resolved"),
        (name(primary), "no-policy", "found"),
        (", ".join(sorted((name(primary), name(heir)))), "several-primaries", "found"),
    }
    primary.follow(heir)
    news = events_of(watcher)
    assert (name(primary), "loaded", "done") in news
    assert watcher.drifts == ()
    watcher.close()


@pytest.mark.slow
def test_silent_unlisted_server_is_forgotten_after_a_while(
    trio: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have crashed, which its primary does not report, or was removed."""
    monkeypatch.setattr(deployment, "FORGOTTEN_AFTER_LOOKS", 3)
    primary, leaving, staying = trio
    Leash(primary).load(one=ALL)
    primary.settle()
    watcher = watcher_of(primary)
    events_of(watcher)
    leaving.kill()
    wait_until(lambda: primary.admin.info("replication")["connected_slaves"] == 1)

    assert [events_of(watcher) for _ in range(4)] == [
        [(name(leaving), "unreachable", "found")],
        [],
        [],
        [(name(leaving), "role", "done")],
    ]
    assert watcher.drifts == ()
    assert loaded_on(staying, "one") == [True, True]
    watcher.close()


def test_server_with_two_names_is_watched_once(pair: Pair) -> None:
    """By the name of the seed."""
    Leash(pair[0]).load(one=ALL)
    pair[0].settle()
    watcher = Watcher(redis.Redis("localhost", pair[0].port))

    assert [item for item, kind, _ in events_of(watcher) if kind == "role"] == [
        f"localhost:{pair[0].port}",
        name(pair[1]),
    ]
    assert watcher.drifts == ()
    watcher.close()


def test_drift_of_a_removed_server_is_not_resolved(trio: list[Node]) -> None:
    """Its state is unknown."""
    primary, replica, _ = trio
    leash = Leash(primary)
    leash.load(one=ALL)
    leash.admin.hset(NAMES.source("one"), "0" * 40, "x")
    primary.settle()
    watcher = watcher_of(primary, replica)
    events_of(watcher)
    replica.kill()
    assert events_of(watcher) == [(name(replica), "unreachable", "found")]
    watcher.close()


@pytest.mark.slow
def test_watcher_finds_servers_by_their_sentinels(trio: list[Node], tmp_path: Path) -> None:
    """Also if a Sentinel does not answer, and the new primary after a failover."""
    primary, *replicas = trio
    Leash(primary).load(one=ALL)
    primary.settle()
    binary = find_server_binaries()[embedded_label()]
    with sentinels(binary, primary, tmp_path, count=1) as found:
        asked = [redis.Redis(*address) for address in (*found.addresses, ("127.0.0.1", 1))]
        watcher = Watcher(redis.Redis(), sentinels=asked, service=SERVICE)
        news = events_of(watcher)
        assert {node for node, kind, _ in news if kind == "role"} == set(map(name, trio))
        assert drifts(watcher) == {"unreachable": "127.0.0.1:1"}
        assert all(loaded_on(replica, "one") == [True, True] for replica in replicas)

        primary.kill()
        wait_until(lambda: found.primary() != primary.address)
        roles: list[str] = []

        def has_told() -> bool:
            roles.extend(node for node, kind, _ in events_of(watcher) if kind == "role")
            silent = {
                drift.node for drift in watcher.drifts if drift.kind is WatchEventKind.UNREACHABLE
            }
            return bool(roles) and silent == {"127.0.0.1:1", name(primary)}

        wait_until(has_told)
        assert set(roles) & set(map(name, replicas))
        watcher.close()

        blind = Watcher(redis.Redis(), sentinels=asked[:1], service="another")
        events_of(blind)
        assert blind.is_blind
        assert "`another`" in blind.drifts[0].message
        blind.close()


def test_fenced_agent_survives_a_failover_to_a_watched_replica(mortals: Pair) -> None:
    """The replica has the guard already, so no retry is needed."""
    primary, replica = mortals
    leash = Leash(primary)
    leash.load(one=ALL)
    token = leash.issue("one").token
    for node in mortals:
        node.admin.execute_command("ACL", "SETUSER", "agent", *AGENT)
    primary.settle()
    watcher = watcher_of(primary)
    events_of(watcher)
    watcher.close()
    primary.kill()
    replica.promote()

    client = keyleash.Redis(port=replica.port, token=token, username="agent", password="pw")
    assert client.set("t:a", 1) is True
    client.close()
