"""A watcher keeps guards loaded wherever a failover may lead, and tells what is wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import keyleash
from client.alike import AsyncLeash
from keyleash.operator.load.functions import held_functions
from keyleash.store.wire import Transport
from keyleash.vault import rotate, seal, unseal
from keyleash.watch import Address, Watcher, WatchEvent, WatchEventKind, WatchState
from keyleash.watch import topology as watch_topology
from keyleash.watch.roles import Sentinels as AskedSentinels
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
    """A primary and two replicas, which the test may end; of one server, as all say the same."""
    with nodes(find_server_binaries()[embedded_label()], 3) as servers:
        yield servers


def connect(address: Address) -> Any:
    return redis.Redis(host=address.host, port=address.port)


def watcher_of(*seeds: Node, sentinels: AskedSentinels | None = None) -> Watcher:
    return Watcher(connect, [Address(*seed.address) for seed in seeds], sentinels)


def told(watcher: Watcher) -> list[tuple[str, str, str]]:
    """What a look tells: node, kind and state."""
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
    """Scripts are not replicated; a replica takes them all the same, and once."""
    primary, replica = pair
    leash = Leash(primary)
    leash.load(one=ALL, two=READ)
    primary.settle()
    watcher = watcher_of(primary)

    assert told(watcher) == [
        (name(primary), "role", "done"),
        (name(replica), "role", "done"),
        (name(replica), "loaded", "done"),
    ]
    assert loaded_on(replica, "one") == loaded_on(replica, "two") == [True, True]
    assert told(watcher) == []

    leash.load(one=READ, two=READ)
    primary.settle()
    assert told(watcher) == [(name(replica), "loaded", "done")]
    assert loaded_on(replica, "one") == [True, True]
    primary.admin.script_flush()
    assert told(watcher) == [(name(primary), "loaded", "done")]
    watcher.close()


def test_functions_are_loaded_where_somebody_flushed_them_and_never_on_a_replica(
    pair: Pair,
) -> None:
    """Servers keep and replicate them; no script is loaded that nobody would call."""
    primary, replica = pair
    leash = Leash(primary, transport=Transport.FUNCTION)
    leash.load(one=ALL)
    primary.settle()
    for node in pair:
        node.admin.script_flush()
    watcher = watcher_of(primary)

    roles = [(name(primary), "role", "done"), (name(replica), "role", "done")]
    assert told(watcher) == roles
    assert loaded_on(primary, "one") == loaded_on(replica, "one") == [False, False]

    primary.admin.function_flush()
    primary.settle()
    assert told(watcher) == [(name(primary), "loaded", "done")]
    primary.settle()
    assert told(watcher) == []
    assert leash.agent("one").incr("t:n") == 1
    assert held_functions(replica.admin) == held_functions(primary.admin)
    watcher.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_agent_that_may_not_load_goes_on_after_a_watcher_has_looked(pair: Pair, kind: str) -> None:
    """It waits for that inside its call, and does not run it twice."""
    primary, _ = pair
    leash: Any = Leash(primary) if kind == "sync" else AsyncLeash(primary)
    leash.load(one=ALL)
    primary.admin.execute_command("ACL", "SETUSER", "agent", *AGENT)
    client = leash.agent("one", username="agent", password="pw")
    client.incr("t:n")
    primary.admin.script_flush()
    watcher = watcher_of(primary)
    looking = threading.Timer(0.1, lambda: told(watcher))
    looking.start()

    assert client.incr("t:n") == 2
    looking.join()
    assert len(leash.events("one")) == 2
    watcher.close()
    if isinstance(leash, AsyncLeash):
        leash.close()


def test_text_of_another_script_is_told_and_never_loaded(pair: Pair) -> None:
    """Whoever may write to the record must not thereby run code as every agent."""
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


def test_text_that_is_changed_after_it_was_compared_is_not_loaded(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text that is loaded is the one that was compared, not one of the same name."""
    primary, _ = pair
    leash = Leash(primary)
    leash.load(one=ALL)
    digest = leash.digest("one")
    leash.admin.script_flush()
    find = watch_topology.not_loaded

    def changed_meanwhile(*args: Any) -> Any:
        leash.admin.hset(NAMES.source("one"), digest, "return 1")
        return find(*args)

    monkeypatch.setattr("keyleash.watch.topology.not_loaded", changed_meanwhile)
    watcher = watcher_of(primary)
    told(watcher)
    assert loaded_on(primary, "one") == [False, True]
    watcher.close()


def test_record_without_a_text_is_told(pair: Pair) -> None:
    """It still works, until the server is started again."""
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


def test_replica_that_has_another_policy_is_told_of(pair: Pair) -> None:
    """Not at once, as the new policy may be on its way; but when it does not come."""
    primary, replica = pair
    leash = Leash(primary)
    leash.load(one=ALL)
    primary.settle()
    watcher = watcher_of(primary)
    told(watcher)
    replica.admin.config_set("replica-read-only", "no")
    try:
        replica.admin.hset(NAMES.policy, "generation", 7)
        assert told(watcher) == [(name(replica), "generation", "found")]
        assert told(watcher) == []
        replica.admin.hset(NAMES.policy, "generation", 1)
        assert told(watcher) == [(name(replica), "generation", "resolved")]
    finally:
        replica.admin.config_set("replica-read-only", "yes")
    leash.admin.hset(NAMES.policy, "generation", 2)
    primary.settle()
    replica.admin.config_set("replica-read-only", "no")
    replica.admin.hset(NAMES.policy, "generation", 1)
    assert told(watcher) == []
    assert told(watcher) == [(name(replica), "generation", "found")]
    replica.admin.config_set("replica-read-only", "yes")
    watcher.close()


def test_server_without_a_policy_or_without_permission_is_told_of(pair: Pair) -> None:
    """Each by its own kind."""
    primary, _ = pair
    watcher = watcher_of(primary)
    told(watcher)
    assert drifts(watcher).keys() == {"no-policy"}
    watcher.close()

    Leash(primary).load(one=ALL)
    primary.admin.script_flush()
    primary.admin.execute_command("ACL", "SETUSER", "ops", "on", ">pw", "~*", "+@all", "-script")

    def restricted(address: Address) -> Any:
        user = "ops" if address == primary.address else None
        return redis.Redis(port=address.port, username=user, password=user and "pw")

    watcher = Watcher(restricted, [Address(*primary.address)])
    told(watcher)
    assert drifts(watcher)["not-permitted"] == name(primary)
    watcher.close()


@pytest.mark.parametrize("field", ["digest", "generation"])
def test_record_that_makes_no_sense_ends_no_watcher(pair: Pair, field: str) -> None:
    """One server's trouble must not be that of all."""
    leash = Leash(pair[0])
    leash.load(one=ALL)
    watcher = watcher_of(pair[0])
    leash.admin.hset(NAMES.guard("one"), "generation", "none")
    if field == "digest":
        leash.admin.hdel(NAMES.guard("one"), "digest")
    pair[0].settle()

    told(watcher)
    assert drifts(watcher).keys() == {"unreadable"}
    watcher.close()


def test_watcher_follows_a_failover_from_node_to_node(trio: list[Node]) -> None:
    """It began with the primary alone; a seed stays, whatever becomes of it."""
    primary, heir, other = trio
    Leash(primary).load(one=ALL)
    primary.settle()
    watcher = watcher_of(primary)
    told(watcher)
    primary.kill()
    wait_until(lambda: heir.admin.info("replication")["master_link_status"] == "down")
    wait_until(lambda: other.admin.info("replication")["master_link_status"] == "down")
    assert set(told(watcher)) == {
        (name(primary), "unreachable", "found"),
        (name(heir), "link-down", "found"),
        (name(other), "link-down", "found"),
    }

    heir.promote()
    other.follow(heir)
    news = told(watcher)
    assert (name(heir), "role", "done") in news
    assert (name(other), "role", "done") in news
    assert drifts(watcher) == {"unreachable": name(primary)}
    Leash(heir).load(one=READ)
    heir.settle()
    assert told(watcher) == [(name(other), "loaded", "done")]

    primary.process.start()
    assert set(told(watcher)) == {
        (name(primary), "unreachable", "resolved"),
        (name(primary), "no-policy", "found"),
        (", ".join(sorted((name(primary), name(heir)))), "several-primaries", "found"),
    }
    primary.follow(heir)
    news = told(watcher)
    assert (name(primary), "loaded", "done") in news
    assert watcher.drifts == ()
    watcher.close()


def test_server_that_is_down_and_that_nobody_names_is_forgotten_in_the_end(
    trio: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have crashed, which its primary does not say, or was taken out of service."""
    monkeypatch.setattr(watch_topology, "FORGOTTEN_AFTER_LOOKS", 3)
    primary, leaving, staying = trio
    Leash(primary).load(one=ALL)
    primary.settle()
    watcher = watcher_of(primary)
    told(watcher)
    leaving.kill()
    wait_until(lambda: primary.admin.info("replication")["connected_slaves"] == 1)

    assert [told(watcher) for _ in range(4)] == [
        [(name(leaving), "unreachable", "found")],
        [],
        [],
        [(name(leaving), "role", "done")],
    ]
    assert watcher.drifts == ()
    assert loaded_on(staying, "one") == [True, True]
    watcher.close()


def test_server_with_two_names_is_watched_once(pair: Pair) -> None:
    """By the name that it was given; what others call it is no other server."""
    Leash(pair[0]).load(one=ALL)
    pair[0].settle()
    watcher = Watcher(connect, [Address("localhost", pair[0].port)])

    assert [item for item, kind, _ in told(watcher) if kind == "role"] == [
        f"localhost:{pair[0].port}",
        name(pair[1]),
    ]
    assert watcher.drifts == ()
    watcher.close()


def test_drift_of_a_server_that_is_gone_is_not_mended(trio: list[Node]) -> None:
    """Nobody sees it, so nobody can say so."""
    primary, replica, _ = trio
    leash = Leash(primary)
    leash.load(one=ALL)
    leash.admin.hset(NAMES.source("one"), "0" * 40, "x")
    primary.settle()
    watcher = watcher_of(primary, replica)
    told(watcher)
    replica.kill()
    assert told(watcher) == [(name(replica), "unreachable", "found")]
    watcher.close()


def test_watcher_finds_servers_by_their_sentinels(trio: list[Node], tmp_path: Path) -> None:
    """Also where some of them do not answer, and the new primary after a failover."""
    primary, *replicas = trio
    Leash(primary).load(one=ALL)
    primary.settle()
    binary = find_server_binaries()[embedded_label()]
    with sentinels(binary, primary, tmp_path, count=1) as found:
        asked = [(Address(*address), connect(Address(*address))) for address in found.addresses]
        asked.append((Address("127.0.0.1", 1), connect(Address("127.0.0.1", 1))))
        watcher = watcher_of(sentinels=AskedSentinels(asked, SERVICE))
        news = told(watcher)
        assert {node for node, kind, _ in news if kind == "role"} == set(map(name, trio))
        assert drifts(watcher) == {"unreachable": "127.0.0.1:1"}
        assert all(loaded_on(replica, "one") == [True, True] for replica in replicas)

        primary.kill()
        wait_until(lambda: found.primary() != primary.address)
        roles: list[str] = []

        def has_told() -> bool:
            roles.extend(node for node, kind, _ in told(watcher) if kind == "role")
            silent = {
                drift.node for drift in watcher.drifts if drift.kind is WatchEventKind.UNREACHABLE
            }
            return bool(roles) and silent == {"127.0.0.1:1", name(primary)}

        wait_until(has_told)
        assert set(roles) & set(map(name, replicas))
        watcher.close()

        other = AskedSentinels(asked[:1], "another")
        blind = watcher_of(sentinels=other)
        told(blind)
        assert blind.is_blind
        assert "`another`" in blind.drifts[0].message
        blind.close()


def test_fenced_agent_survives_a_failover_to_a_watched_replica(mortals: Pair) -> None:
    """The replica has the guard already, so nothing needs to heal."""
    primary, replica = mortals
    leash = Leash(primary)
    leash.load(one=ALL)
    token = leash.issue("one").token
    for node in mortals:
        node.admin.execute_command("ACL", "SETUSER", "agent", *AGENT)
    primary.settle()
    watcher = watcher_of(primary)
    told(watcher)
    watcher.close()
    primary.kill()
    replica.promote()

    client = keyleash.Redis(port=replica.port, token=token, username="agent", password="pw")
    assert client.set("t:a", 1) is True
    client.close()


def test_sealed_server_is_watched_through_every_change_of_its_prefixes(pair: Pair) -> None:
    """Nobody tells a watcher; it looks where the record says."""
    primary, _ = pair
    leash = Leash(primary)
    leash.load(one=ALL)
    watcher = watcher_of(primary)
    for change in (seal, rotate, unseal):
        change(leash.admin)
        for node in pair:
            node.admin.script_flush()
        primary.settle()
        told(watcher)
        assert drifts(watcher) == {}
        for node in pair:
            assert node.admin.script_exists(leash.digest("one")) == [True]
    watcher.close()
