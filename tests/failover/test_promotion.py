"""A promoted replica has limits, audit stream and data of one moment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import keyleash
from client.alike import AsyncLeash, SyncLeash
from keyleash.addons.servers import EmbeddedServer
from keyleash.store.state import IdentityState, Layout, unpack_state
from support.clocks import server_ahead
from support.leash import NAMES, Leash, grant
from support.replication import Address, Node, nodes, wait_until
from support.servers import find_server_binaries

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="t:*")]}
HOUR_S = 3600

Pair = tuple[Node, Node]


def state_of(node: Node) -> IdentityState:
    raw: Any = node.admin.hget(NAMES.layouts, "one")
    return unpack_state(node.admin.get(NAMES.state("one")), Layout.from_json(raw))


@pytest.fixture(params=["sync", "async"])
def named(mortals: Pair, request: pytest.FixtureRequest) -> Iterator[tuple[Any, Address]]:
    """A leash on the primary, and a client that finds it by name."""
    kind = {"sync": SyncLeash, "async": AsyncLeash}[request.param]
    if kind is AsyncLeash and "embedded" not in request.node.callspec.id:
        pytest.skip("what the async client does differently is not the server's")
    leash: Any = kind(mortals[0])
    leash.load(one={**ALL, "budget": {"writes": "3/month"}})
    with contextlib.closing(Address(mortals[0])) as address:
        yield leash.agent("one", port=address.port), address
        if isinstance(leash, AsyncLeash):
            leash.close()


def test_client_follows_a_promoted_replica(named: Any, mortals: Pair) -> None:
    """The server never had the script, and the limits continue."""
    (client, address), (primary, replica) = named, mortals
    client.set("t:a", 1)
    client.set("t:a", 2)
    primary.settle()
    primary.kill()
    replica.promote()
    address.node = replica
    digest = Leash(replica).digest("one")

    assert replica.admin.script_exists(digest) == [False]
    with contextlib.suppress(redis.ConnectionError):
        client.get("t:a")  # the sync pool sees by itself that the connection has ended
    assert client.set("t:a", 3) is True
    with pytest.raises(keyleash.BudgetExhaustedError):
        client.set("t:a", 4)
    assert len(Leash(replica).events("one")) == 3
    assert replica.admin.script_exists(digest) == [True]


def test_client_goes_on_after_a_restart_of_the_server(tmp_path: Path) -> None:
    """The server has its data, and no scripts."""
    with EmbeddedServer(data=tmp_path) as server:
        leash = Leash(Node(server))
        leash.load(one=ALL)
        client = leash.agent("one")
        client.incr("t:n")
        server.restart()

        assert leash.admin.script_exists(leash.digest("one")) == [False]
        with contextlib.suppress(redis.ConnectionError):
            client.get("t:n")  # the pool sees by itself that the connection has ended
        assert client.incr("t:n") == 2


def test_client_of_a_demoted_primary_reconnects(named: Any, mortals: Pair) -> None:
    """The old connection is closed, because only a new one reaches the new primary."""
    (client, address), (primary, replica) = named, mortals
    client.set("t:a", 1)
    primary.settle()
    replica.promote()
    primary.follow(replica)
    address.node = replica

    with pytest.raises(redis.ReadOnlyError):
        client.set("t:a", 2)
    assert replica.admin.get("t:a") == b"1"
    assert client.set("t:a", 3) is True
    assert replica.admin.get("t:a") == b"3"
    assert len(Leash(replica).events("one")) == 2


def test_unreplicated_write_is_lost_with_its_event_and_count(mortals: Pair) -> None:
    """The promoted replica has all three or none."""
    primary, replica = mortals
    leash = Leash(primary)
    leash.load(one={**ALL, "budget": {"writes": "100/month"}, "rate": {"writes": "100/hour"}})
    client = leash.agent("one")
    for number in range(5):
        client.set(f"t:{number}", number)
    primary.settle()
    # First halted and then cut: what is sent to a process that is only halted, it reads later.
    replica.halt()
    primary.admin.client_kill_filter(_type="replica")
    wait_until(lambda: primary.admin.info("replication")["connected_slaves"] == 0)
    for number in range(5, 8):
        client.set(f"t:{number}", number)
    with client.batch() as batch:
        batch.set("t:8", 8)
        batch.set("t:9", 9)
    assert state_of(primary).limits[1].used == 10
    primary.kill()
    replica.go_on()
    replica.promote()

    survivors = {f"t:{number}" for number in range(5)}
    assert {key.decode() for key in replica.admin.scan_iter("t:*")} == survivors
    assert {event["SET"] for event in Leash(replica).events("one")} == survivors
    assert state_of(replica).limits[1].used == 5


def test_replica_with_masterdown_runs_nothing(mortals: Pair) -> None:
    """The error is raised, and the next call reconnects."""
    primary, replica = mortals
    leash = Leash(primary)
    leash.load(one=ALL)
    token = leash.issue("one").token
    primary.settle()
    client = Leash(replica).client(token)
    assert client.get("t:a") is None
    replica.admin.config_set("replica-serve-stale-data", "no")
    primary.kill()
    wait_until(lambda: replica.admin.info("replication")["master_link_status"] == "down")

    for _ in range(2):
        with pytest.raises(redis.exceptions.MasterDownError):
            client.get("t:a")
    replica.promote()
    assert client.set("t:a", 1) is True
    assert len(Leash(replica).events("one")) == 1


@pytest.fixture(params=list(find_server_binaries()))
def ahead(
    request: pytest.FixtureRequest, clock: Path, tmp_path: Path
) -> Iterator[tuple[Node, Node]]:
    """A primary whose clock is an hour ahead of its replica's."""
    binary = find_server_binaries()[request.param]
    started = server_ahead(binary, clock, tmp_path, HOUR_S)
    with nodes(started, 1) as (primary,), nodes(binary, 1) as (replica,):
        seconds = [int(node.admin.time()[0]) for node in (primary, replica)]
        assert HOUR_S - 60 < seconds[0] - seconds[1] < HOUR_S + 60
        replica.follow(primary)
        yield primary, replica


LIMITS: dict[str, dict[str, Any]] = {
    "exact rate": {"rate": {"writes": "5/day"}},
    "rate with burst": {"rate": {"writes": {"limit": "1/day", "burst": 5}}},
    "budget": {"budget": {"writes": "5/month"}},
    "rate per token": {"rate": {"writes": {"limit": "5/day", "per": "token"}}},
    "budget per token": {"budget": {"writes": {"limit": "5/month", "per": "token"}}},
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_limit_is_exact_after_the_clock_moved_back(ahead: Pair, limits: dict[str, Any]) -> None:
    """A failover to a clock an hour behind refunds no call."""
    primary, replica = ahead
    leash = Leash(primary)
    leash.load(one={**ALL, **limits})
    token = leash.issue("one").token
    client = leash.client(token)
    for number in range(3):
        client.set("t:a", number)
    primary.settle()
    primary.kill()
    replica.promote()

    client = Leash(replica).client(token)
    with contextlib.suppress(keyleash.RateLimitedError, keyleash.BudgetExhaustedError):
        for number in range(3, 10):
            client.set("t:a", number)
    # What a GCRA owes, it owes for an hour longer, so that one call of the burst is not free yet.
    assert len(Leash(replica).events("one")) == (4 if "burst" in str(limits) else 5)


def test_audit_stream_stays_in_order_after_the_clock_moved_back(ahead: Pair) -> None:
    """Entry ids and sequence numbers only increase."""
    primary, replica = ahead
    leash = Leash(primary)
    leash.load(one=ALL)
    token = leash.issue("one").token
    leash.client(token).set("t:a", 1)
    primary.settle()
    primary.kill()
    replica.promote()
    Leash(replica).client(token).set("t:a", 2)

    (first, second) = replica.admin.xrange(NAMES.audit("one"))
    assert tuple(map(int, first[0].split(b"-"))) < tuple(map(int, second[0].split(b"-")))
