"""The embedded cluster, and the clusters of the test suite."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from keyleash.addons.servers import EmbeddedCluster, EmbeddedServer
from support.clusters import RealCluster, RealClusters, SlotMove
from support.errors import raises_code
from support.replication import wait_until
from support.servers import embedded_label

SLOTS = set(range(16384))


@pytest.fixture
def free_ports() -> int:
    """The first of two free ports."""
    while True:
        # Like their bus ports, below those that the system gives to others.
        port = random.randrange(10_000, 20_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as probes:
            for probed in (port, port + 1):
                probes.enter_context(socket.create_server(("127.0.0.1", probed)))
            return port


def test_every_slot_is_served_by_one_of_three_primaries(cluster: RealCluster) -> None:
    """The slots are assigned evenly, and each node is the server of the label."""
    first, second, third = (node.slots for node in cluster.nodes)
    product, version = cluster.label.removeprefix("embedded-").rsplit("-", 1)

    assert first | second | third == SLOTS
    assert sorted(map(len, (first, second, third))) == [5461, 5461, 5462]
    for node in cluster.nodes:
        info = node.admin.info()
        assert info[f"{product}_version"] == version
        assert info["cluster_enabled"] == 1


def test_client_of_the_cluster_reaches_every_node(cluster: RealCluster) -> None:
    """The nodes announce addresses that clients can reach."""
    client = cluster.client()

    for node in cluster.nodes:
        client.set(node.key(), "value")
        assert node.admin.get(node.key()) == b"value"


def test_moving_slot_answers_for_the_keys_at_each_node(cluster: RealCluster) -> None:
    """A test may stop the move at any key."""
    client = cluster.client()
    client.mset_nonatomic({"{tag}1": "a", "{tag}2": "b"})
    slot = key_slot(b"tag")
    source = cluster.owner(slot)
    target = cluster.other(source)

    with cluster.moving(slot, target) as move:
        move.move("{tag}1")
        with pytest.raises(redis.exceptions.AskError):
            source.admin.get("{tag}1")
        assert source.admin.get("{tag}2") == b"b"
        with pytest.raises(redis.exceptions.MovedError):
            target.admin.get("{tag}1")

    assert cluster.owner("{tag}1") is target
    assert client.mget("{tag}1", "{tag}2") == [b"a", b"b"]


def test_slots_move_in_one_step_where_the_server_can(cluster: RealCluster) -> None:
    """The keys are at the target, and the source has none of the slots."""
    if not cluster.moves_in_one_step:
        pytest.skip("the server has no CLUSTER MIGRATESLOTS")
    source, target = cluster.nodes[:2]
    key = source.key()
    source.admin.set(key, "value")

    cluster.move_in_one_step([key_slot(key.encode())], target)

    assert cluster.owner(key) is target
    assert target.admin.get(key) == b"value"


def test_cluster_is_clean_after_a_test_that_moved_slots(cluster: RealCluster) -> None:
    """Data, scripts, users, and moved and moving slots of other tests are gone."""
    first, second, third = cluster.nodes
    before = [node.slots for node in cluster.nodes]
    key = first.key()
    first.admin.set(key, "value")
    digest = second.admin.script_load("return 1")
    third.admin.acl_setuser("left", enabled=True)
    cluster.move_slot(key_slot(key.encode()), second)
    SlotMove(cluster, min(third.slots), first).begin()

    cluster.clean()

    assert [node.slots for node in cluster.nodes] == before
    assert second.admin.script_exists(digest) == [False]
    for node in cluster.nodes:
        assert node.admin.dbsize() == 0
        assert len(node.admin.acl_users()) == 1
        assert not any(peer["migrations"] for peer in node.peers())


def test_added_node_takes_slots(real_clusters: RealClusters) -> None:
    """It knows the others and they know it, so clients are redirected to it."""
    with real_clusters.lend(embedded_label()) as cluster:
        client = cluster.client()
        client.set("key", "value")

        added = cluster.add_node()
        assert added.slots == set()
        cluster.move_slot(key_slot(b"key"), added)

        assert cluster.owner("key") is added
        assert client.get("key") == b"value"
        assert added in cluster.primaries


def test_replica_takes_over_the_slots_of_a_killed_primary(replicated_cluster: RealCluster) -> None:
    """With the data that it had; the primary, started again, is its replica."""
    cluster = replicated_cluster
    killed = cluster.primaries[0]
    replica = cluster.replica_of(killed)
    key, slots = killed.key(), killed.slots
    killed.admin.set(key, "value")
    killed.settle()

    killed.kill()
    cluster.wait_until_served()
    assert cluster.owner(key) is replica
    assert replica.slots == slots
    assert replica.admin.get(key) == b"value"

    killed.restart()
    wait_until(lambda: cluster.replica_of(replica) is killed)
    assert killed.pid == killed.admin.info("server")["process_id"]


def test_primary_without_replica_comes_back_with_its_slots(real_clusters: RealClusters) -> None:
    """Its identifier and its slots are persisted, its data is not."""
    with real_clusters.lend(embedded_label()) as cluster:
        killed = cluster.primaries[0]
        identifier, slots = killed.identifier, killed.slots
        killed.admin.set(killed.key(), "value")

        killed.kill()
        killed.restart()

        assert killed.slots == slots
        assert killed.admin.cluster("MYID").decode() == identifier
        assert killed.admin.dbsize() == 0


def test_changed_cluster_is_replaced_before_the_next_test(real_clusters: RealClusters) -> None:
    """No test sees a node that another one added or killed."""
    with real_clusters.lend(embedded_label(), primaries=1) as cluster:
        cluster.nodes[0].kill()
    with real_clusters.lend(embedded_label(), primaries=1) as other:
        assert other.nodes[0].slots == SLOTS
        assert other.nodes[0].identifier != cluster.nodes[0].identifier


def test_nodes_listen_on_consecutive_ports(free_ports: int) -> None:
    """The first port is the caller's choice; loopback is the only interface."""
    with EmbeddedCluster(1, 1, port=free_ports) as cluster:
        assert [node.port for node in cluster.nodes] == [free_ports, free_ports + 1]
        assert cluster.url == f"redis://127.0.0.1:{free_ports}"
        with redis.Redis.from_url(cluster.url, decode_responses=True) as admin:
            assert admin.config_get("bind") == {"bind": "127.0.0.1"}


def test_taken_port_ends_the_nodes_that_started(free_ports: int) -> None:
    """No process is left behind by a start that fails."""
    with EmbeddedServer(free_ports + 1):
        cluster = EmbeddedCluster(2, port=free_ports)
        with raises_code("server-start", match=f"port {free_ports + 1} .*in use"):
            cluster.start()
    assert cluster.nodes == []
    with raises_code("server-start", match="not running"):
        assert cluster.url


def test_exit_of_the_program_ends_all_nodes_and_removes_their_files(tmp_path: Path) -> None:
    """Without a `with` block; a forked child that exits ends nothing."""
    source = """
        import os, tempfile, weakref
        from keyleash.addons.servers import EmbeddedCluster
        cluster = EmbeddedCluster(1, 1).start()
        if (child := os.fork()) == 0:
            weakref.finalize._exitfunc()
            os._exit(0)
        os.waitpid(child, 0)
        assert all(node.running for node in cluster.nodes)
        assert len(os.listdir(tempfile.gettempdir())) == 3
        print(*(node.pid for node in cluster.nodes))
    """
    program = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    assert list(tmp_path.iterdir()) == []
    pids = program.stdout.split()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.parametrize("counts", [(0, 0), (16385, 0), (3, -1)])
def test_impossible_numbers_of_nodes_are_an_error(counts: tuple[int, int]) -> None:
    """Before any process starts."""
    with pytest.raises(ValueError, match=r"primaries|replicas"):
        EmbeddedCluster(*counts)
