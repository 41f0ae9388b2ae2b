"""`keyleash acl agent`: the ACL user of a trusted agent that calls its guard by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from redis.exceptions import NoPermissionError

import keyleash
from support.clusters import RealCluster
from support.command_line import Cli
from support.servers import RealServer

POLICY = """\
version: 1
identities:
  worker:
    kind: machine
    token: {bound: true, renew: true}
    delegate: {depth: 1}
    grants:
      - {allow: [read, write, delete, scan], keys: ["jobs:{tenant}:*"]}
      - {allow: [publish, subscribe], channels: ["news:*"]}
      - {allow: [read], keys: ["shared:*"]}
    rate: {requests: 1000/minute, writes: {limit: 500/minute, per: token}}
    budget: {writes: {limit: 1000/day, per: "{tenant}"}}
    on_denials: {threshold: 100/minute, suspend: 1h}
    audit: {before_images: {max_bytes: 64kb}}
"""
PASSWORD = "0123456789abcdef"


def user_url(cli: Cli, server: RealServer | RealCluster, folder: Path) -> str:
    """Load the policy, make the user of `worker`, and return the URL with its password."""
    file = folder / "policy.yaml"
    is_cluster = isinstance(server, RealCluster)
    file.write_text(POLICY.replace("jobs:{tenant}", "jobs:{{{tenant}}}") if is_cluster else POLICY)
    cli.ok("load", file, "--yes")
    line = cli.ok("acl", "agent", "worker").strip()
    nodes = server.nodes if isinstance(server, RealCluster) else ()
    for client in [node.admin for node in nodes] or [redis.Redis.from_url(server.url)]:
        client.execute_command(*line.split(" "), f">{PASSWORD}")
    return f"redis://keyleash-worker:{PASSWORD}@{urlsplit(server.url).netloc}"


def work(client: Any, key: str) -> None:
    """Use what the policy grants: each kind of call of a guard."""
    assert client.set(key, "1", ex=60)
    assert client.get(key) == b"1"
    assert client.rpush(f"{key}:list", "c", "a") == 2
    assert client.sort(f"{key}:list", alpha=True) == [b"a", b"c"]
    assert client.delete(key) == 1
    pipe = client.pipeline(transaction=False)
    for _ in range(3):
        pipe.incr(key)
    assert pipe.execute() == [1, 2, 3]
    assert client.can_i("SET", key, "x")
    with pytest.raises(keyleash.LeashError):
        client.execute_command("SET", "shared:a", "x")


def test_agent_with_the_printed_user_works_and_reaches_no_other_key(
    server: RealServer, tmp_path: Path
) -> None:
    """The server refuses a key of no grant by itself, and whatever is of `@admin`."""
    cli = Cli(server.url)
    url = user_url(cli, server, tmp_path)
    client = keyleash.Redis.from_url(url, token=cli.token("worker"))
    work(client, "jobs:a:1")
    child = client.delegate(keys=["jobs:a:*"], ttl="5m")
    keyleash.Redis.from_url(url, token=child.token).get("jobs:a:1")
    with client.pubsub() as listener:
        listener.subscribe("news:a")
        assert listener.get_message(timeout=5)
        assert client.publish("news:a", "x") == 1
    assert [*client.scan_iter("jobs:a:*")]
    admin = redis.Redis.from_url(server.url)
    assert admin.acl_log() == []

    raw = redis.Redis.from_url(url)
    for words in (
        ("GET", "others:1"),
        ("GET", "keyleash:guard:other"),
        ("HSET", "keyleash:policy", "a", "b"),
        ("SUBSCRIBE", "other"),
        ("CONFIG", "GET", "*"),
        ("FLUSHALL",),
        ("EVAL", "return 1", "0"),
    ):
        with pytest.raises(NoPermissionError):
            raw.execute_command(*words)
    with pytest.raises(NoPermissionError):
        client.get("others:1")


@pytest.mark.slow
def test_agent_of_a_cluster_works_with_the_printed_user(
    embedded_cluster: RealCluster, tmp_path: Path
) -> None:
    """Each node needs it."""
    cli = Cli(embedded_cluster.url)
    url = user_url(cli, embedded_cluster, tmp_path)
    client = keyleash.RedisCluster.from_url(url, token=cli.token("worker"))
    for tenant in range(6):
        work(client, f"jobs:{{{tenant}}}:1")
    assert [item for node in embedded_cluster.nodes for item in node.admin.acl_log()] == []


def test_agent_without_an_identity_or_a_policy_is_an_error(cli: Cli) -> None:
    """The rules are those of one identity of the active policy."""
    assert "`agent` takes an identity" in cli.run("acl", "agent").output
    assert "`issuer` takes no identity" in cli.run("acl", "issuer", "worker").output
    assert cli.json("acl", "agent", "worker", exit_code=1)["error"]["code"] == "no-policy"
