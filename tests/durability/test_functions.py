"""Guards that are functions are where the data is: after a crash, on a replica, in a dump."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import keyleash
from keyleash.servers import EmbeddedServer
from keyleash.store.wire import Transport
from support.leash import Leash, grant
from support.replication import PATIENCE_S, wait_until
from support.servers import RealServer, find_server_binaries

ALL: dict[str, Any] = {
    "grants": [grant("read", "write", keys="t:*")],
    "budget": {"requests": "1000/month"},
}
FENCED = ("on", ">pw", "~*", "+@all", "-function", "-script")
"""An agent who cannot bring back what a server lost."""


@pytest.fixture(params=list(find_server_binaries()))
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    binary = find_server_binaries()[request.param]
    data = tmp_path / "primary"
    with EmbeddedServer(data=data, appendfsync="always", binary=binary) as process:
        yield process


@pytest.fixture
def leash(process: EmbeddedServer) -> Iterator[Leash]:
    server = RealServer("primary", process)
    leash = Leash(server, transport=Transport.FUNCTION)
    # Or a replica waits five seconds for others.
    leash.admin.config_set("repl-diskless-sync-delay", 0)
    yield leash
    server.close_clients()


def fenced(leash: Leash, port: int, token: str) -> Any:
    client = redis.Redis(port=port)
    client.execute_command("ACL", "SETUSER", "fenced", *FENCED)
    client.close()
    return keyleash.Redis(port=port, token=token, username="fenced", password="pw")


@pytest.mark.parametrize("by", ["AOF", "AOF with a rewritten base"])
def test_agent_goes_on_after_a_crash_by_itself(
    process: EmbeddedServer, leash: Leash, by: str
) -> None:
    """Nothing has to be loaded again, so that an agent needs no right to do it."""
    leash.load(one=ALL)
    token = leash.issue("one").token
    agent = fenced(leash, process.port, token)
    agent.set("t:a", "before")
    if by != "AOF":
        leash.admin.bgrewriteaof()
        wait_until(lambda: leash.admin.info("persistence")["aof_rewrite_in_progress"] == 0)
    process.kill()
    process.start()

    again = fenced(leash, process.port, token)
    assert again.get("t:a") == b"before"
    assert again.pipeline().incr("t:n").incr("t:n").execute() == [1, 2]
    assert leash.load(one=ALL).changed is False


def test_agent_goes_on_at_a_promoted_replica(
    process: EmbeddedServer, leash: Leash, request: pytest.FixtureRequest
) -> None:
    """Functions are replicated: those of before the replica came, and those of a load since."""
    binary = find_server_binaries()[request.node.callspec.params["process"]]
    leash.load(one=ALL)
    token = leash.issue("one").token
    with EmbeddedServer(binary=binary) as second:
        replica: Any = redis.Redis(port=second.port)
        replica.replicaof("127.0.0.1", process.port)
        wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
        leash.load(one={**ALL, "deny": [{"keys": ["t:x"]}]})
        leash.client(token).set("t:a", "before")
        assert leash.admin.wait(1, int(PATIENCE_S * 1000)) == 1
        process.kill()
        replica.replicaof("NO", "ONE")

        agent = fenced(leash, second.port, token)
        assert agent.get("t:a") == b"before"
        assert agent.incr("t:n") == 1
        with pytest.raises(keyleash.KeyDeniedError):
            agent.get("t:x")
        assert len(replica.function_list()) == 2
        replica.close()


def test_function_at_a_replica_runs_nothing(
    process: EmbeddedServer, leash: Leash, request: pytest.FixtureRequest
) -> None:
    """Calls are counted where the data is written; the error is the server's own."""
    binary = find_server_binaries()[request.node.callspec.params["process"]]
    leash.load(one=ALL)
    token = leash.issue("one").token
    with EmbeddedServer(binary=binary) as second:
        replica: Any = redis.Redis(port=second.port)
        replica.replicaof("127.0.0.1", process.port)
        wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
        with pytest.raises(redis.exceptions.ReadOnlyError):
            keyleash.Redis(port=second.port, token=token).get("t:a")
        replica.close()
