"""Clusters whose nodes listen with TLS alone: operators, the command line, and both clients."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

import keyleash
from keyleash.addons.servers import EmbeddedCluster
from keyleash.addons.servers.embedded import free_ports
from support.command_line import Cli
from support.replication import wait_until
from support.servers import find_server_binaries

pytestmark = pytest.mark.slow

OPENSSL = (
    "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
    "-nodes", "-days", "2", "-subj", "/CN=localhost",
    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
)  # fmt: skip
POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{id}"]}]
    rate: {requests: 6000/minute}
    budget: {requests: 1000/day}
"""
KEYS = [f"jobs:{number}" for number in range(12)]
assert {key_slot(key.encode()) * 3 // 16384 for key in KEYS} == {0, 1, 2}


class Secured:
    """A cluster with TLS.

    Attributes:
        ports: The ports of its nodes.
        ca: The file of the certificate.
    """

    def __init__(self, cluster: EmbeddedCluster, ca: Path) -> None:
        self.ca = ca
        self.ports = free_ports(len(cluster.nodes))
        for node, port in zip(cluster.nodes, self.ports, strict=True):
            with redis.Redis(port=node.port) as admin:
                admin.config_set("tls-port", port)
        wait_until(self._is_known)
        for node in cluster.nodes:
            with redis.Redis(port=node.port) as admin:
                admin.config_set("port", 0)

    def _is_known(self) -> bool:
        """Return whether each node reports the ports of all."""
        found = []
        for port in self.ports:
            with redis.Redis(port=port, ssl=True, ssl_ca_certs=str(self.ca)) as admin:
                found.append({item[2][1] for item in admin.execute_command("CLUSTER SLOTS")})
        return found == [set(self.ports)] * len(self.ports)

    def url(self, port: int | None = None) -> str:
        return f"rediss://127.0.0.1:{port or self.ports[0]}?ssl_ca_certs={self.ca}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not there")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    making: list[str | Path] = [*OPENSSL, "-keyout", key, "-out", certificate]
    subprocess.run(making, check=True, capture_output=True)
    settings = {
        "tls-cert-file": str(certificate), "tls-key-file": str(key),
        "tls-ca-cert-file": str(certificate), "tls-auth-clients": "no",
    }  # fmt: skip
    # Of those on the PATH: the embedded one is built without TLS.
    for binary in [*find_server_binaries().values()][1:]:
        cluster = EmbeddedCluster(3, binary=binary, settings=settings)
        try:
            cluster.start()
        except keyleash.OperationError:
            continue
        with cluster:
            yield Secured(cluster, certificate)
        return
    pytest.skip("no server on the PATH has TLS")


@pytest.fixture
def token(secured: Secured) -> str:
    with keyleash.Operator.from_url(secured.url(), actor="test") as op:
        op.load(keyleash.Policy(POLICY))
        return op.tokens.issue("agent").token


def test_operator_reaches_all_nodes_with_tls(secured: Secured, token: str) -> None:
    """With the certificate of the URL, from any node."""
    nodes = {f"127.0.0.1:{port}" for port in secured.ports}
    with keyleash.RedisCluster.from_url(secured.url(), token=token) as client:
        assert all(client.set(key, "v") for key in KEYS)
    for port in secured.ports:
        with keyleash.Operator.from_url(secured.url(port), actor="test") as op:
            frozen = op.freeze("agent", reason="x")
            assert {effect.node for effect in frozen.nodes or ()} == nodes
            assert frozen.not_reached == op.thaw("agent").not_reached == ()
            (identity,) = op.status().identities
            assert {shard.node for shard in identity.shards or ()} == nodes
            assert not any(shard.reason for shard in identity.shards or ())
            assert {event.shard is not None for event in op.audit.events("agent")} == {True}
            assert "unreachable" not in {item.code for item in op.doctor().findings}


def test_command_line_and_exec_work_with_tls(secured: Secured, token: str) -> None:
    """`exec` has the options of the URL for all nodes."""
    cli = Cli(secured.url(), {"KEYLEASH_TOKEN": token})
    for key in KEYS:
        assert cli.ok("exec", "SET", key, "v") == "OK\n"
    assert cli.json("whoami")["identity"] == "agent"
    assert len(cli.json("status")["identities"][0]["shards"]) == 3


def test_clients_call_guards_with_tls(secured: Secured, token: str) -> None:
    """Single calls and pipelines, with leases from the home."""
    with keyleash.RedisCluster.from_url(secured.url(), token=token) as client:
        assert all(client.set(key, key) for key in KEYS)
        pipe = client.pipeline()
        for key in KEYS:
            pipe.get(key)
        assert pipe.execute() == [key.encode() for key in KEYS]

    async def use() -> list[Any]:
        options: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(secured.ca)}
        async with keyleash.asyncio.RedisCluster(
            host="127.0.0.1", port=secured.ports[1], token=token, **options
        ) as client:
            return [await client.get(key) for key in KEYS]

    assert asyncio.run(use()) == [key.encode() for key in KEYS]


def test_certificate_of_no_known_authority_is_refused(secured: Secured, token: str) -> None:
    """By the clients and the operator."""
    url = secured.url().partition("?")[0]
    with pytest.raises(redis.exceptions.RedisClusterException, match="certificate"):
        keyleash.RedisCluster.from_url(url, token=token)
    with keyleash.Operator.from_url(url) as op, pytest.raises(redis.ConnectionError):
        op.status()
