"""`exec` and other commands that act for an agent, on clusters; and clients for one server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import keyleash
from keyleash.errors import ClusterError, RightMissingError
from keyleash.store.keyspace import Keyspace
from support.clusters import RealCluster
from support.command_line import Cli
from support.leases import tag_of

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write, scan], keys: ["jobs:{id}"]}]
    budget: {requests: 1000/day}
"""


@pytest.fixture
def op(embedded_cluster: RealCluster) -> Iterator[keyleash.Operator]:
    with keyleash.Operator.from_url(embedded_cluster.url, actor="test") as op:
        op.load(keyleash.Policy(POLICY))
        yield op


@pytest.fixture
def token(op: keyleash.Operator) -> str:
    return op.tokens.issue("agent").token


def test_exec_runs_at_the_node_of_the_key(embedded_cluster: RealCluster, token: str) -> None:
    """From the URL of any node; denials are as on one server."""
    environment = {"KEYLEASH_TOKEN": token}
    for number, node in enumerate(embedded_cluster.primaries):
        key = node.key("jobs:")
        for url in (f"redis://127.0.0.1:{other.port}" for other in embedded_cluster.primaries):
            cli = Cli(url, environment)
            assert cli.ok("exec", "SET", key, str(number)) == "OK\n"
            assert cli.ok("exec", "GET", key) == f"{number}\n"
    cli = Cli(embedded_cluster.url, environment)
    assert "KEY_NOT_GRANTED" in cli.run("exec", "GET", "other").stderr
    assert len(cli.json("exec", "KEYS", "jobs:*")) == 3
    cursors, keys = cli.json("exec", "SCAN", "0", "COUNT", "100", "MATCH", "jobs:*")
    assert (len(cursors), len(keys)) == (3, 3)


def test_commands_about_an_agent_work(embedded_cluster: RealCluster, token: str) -> None:
    """The home knows what operators ask about a token or a call."""
    cli = Cli(embedded_cluster.url, {"KEYLEASH_TOKEN": token})
    key = embedded_cluster.primaries[1].key("jobs:")
    cli.ok("exec", "SET", key, "v")
    assert cli.json("whoami")["identity"] == "agent"
    assert cli.json("explain", "agent", "SET", key, "v")["allowed"]
    assert cli.json("can-i", "agent", "SET", key, "v")["allowed"]


def test_client_of_one_server_names_that_of_clusters(
    embedded_cluster: RealCluster, token: str
) -> None:
    """At each node, whether it serves the slot in which one server's records would be or not."""
    for node in embedded_cluster.primaries:
        client = keyleash.Redis(host="127.0.0.1", port=node.port, token=token)
        with client, pytest.raises(ClusterError) as caught:
            client.get("jobs:1")
        assert caught.value.help == "use `keyleash.RedisCluster`"


def byhand(cluster: RealCluster, *rules: str) -> dict[str, Any]:
    """Make a user on all nodes; return its credentials."""
    for node in cluster.nodes:
        words = ("reset", "on", ">p", "+@all", "~jobs:*", "%R~keyleash:{kl}:guard:agent", *rules)
        node.admin.execute_command("ACL", "SETUSER", "byhand", *words)
    return {"username": "byhand", "password": "p"}


def test_missing_right_names_the_keys_of_the_node(
    embedded_cluster: RealCluster, token: str
) -> None:
    """A user without rights on control keys, and one without those of the home."""
    for node in embedded_cluster.primaries:
        options = {**byhand(embedded_cluster), "token": token}
        names = Keyspace().at_shard(tag_of(node))
        with (
            keyleash.RedisCluster.from_url(embedded_cluster.url, **options) as client,
            pytest.raises(RightMissingError) as missing,
        ):
            client.set(node.key("jobs:"), "v")
        assert {names.state("agent"), names.audit("agent"), names.none} < {*missing.value.keys}
        assert not any("{kl}" in key for key in missing.value.keys)
        assert names.state("agent") in str(missing.value.help)
    shards = (f"~keyleash:{{{tag_of(node)}}}:*" for node in embedded_cluster.primaries)
    options |= byhand(embedded_cluster, "~keyleash:{kl}:guard:agent", *shards)
    with (
        keyleash.RedisCluster.from_url(embedded_cluster.url, **options) as client,
        pytest.raises(RightMissingError) as missing,
    ):
        client.set(node.key("jobs:"), "v")
    assert Keyspace().at_home().leases("agent") in missing.value.keys


def test_exec_with_keys_of_several_slots_asks_for_one_hash_tag(
    embedded_cluster: RealCluster, token: str
) -> None:
    """Not for a client of clusters, which it uses already."""
    keys = [node.key("jobs:") for node in embedded_cluster.primaries]

    shown = Cli(embedded_cluster.url, {"KEYLEASH_TOKEN": token}).run("exec", "MGET", *keys)

    assert shown.exit_code == 1
    assert "the keys are in several slots" in shown.stderr
    assert "hash tag" in shown.stderr


@pytest.mark.parametrize("command", ["MGET", "EXISTS"])
def test_question_about_keys_of_several_slots_is_answered(
    embedded_cluster: RealCluster, op: keyleash.Operator, command: str
) -> None:
    """No node runs such a call; one that no grant allows is denied for that."""
    keys = [node.key("jobs:") for node in embedded_cluster.primaries]

    shown = Cli(embedded_cluster.url).run("can-i", "agent", command, *keys)

    assert shown.exit_code == 1
    assert "the keys are in several slots" in shown.stderr
    with pytest.raises(keyleash.CrossSlotError):
        op.can_i("agent", command, *keys)
    assert not op.can_i("agent", command, *keys, "other")


def test_question_about_keys_of_any_node_is_answered(
    embedded_cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Their sizes are read at the node that has them."""
    for node in embedded_cluster.primaries:
        key = node.key("jobs:")
        assert op.can_i("agent", "MGET", key, key)
        assert op.can_i("agent", "APPEND", key, "x")
        assert op.explain("agent", "SETRANGE", key, "600000000", "x").decision.code
