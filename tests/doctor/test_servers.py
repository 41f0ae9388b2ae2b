"""`keyleash doctor` with several servers, and with a clock that is ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from doctor.targets import NAMES, OPS, POLICY, DoctorTarget
from keyleash.addons.doctor.checks import settings
from keyleash.addons.doctor.examine import examine
from keyleash.addons.servers import EmbeddedServer
from support.clocks import server_ahead
from support.replication import wait_until
from support.servers import embedded_label, find_server_binaries

HOUR_S = 3600


def follow(replica: DoctorTarget, primary: DoctorTarget) -> None:
    replica.admin.config_set("masteruser", OPS)
    replica.admin.config_set("masterauth", OPS)
    primary.admin.config_set("repl-diskless-sync-delay", 0)
    replica.admin.replicaof("127.0.0.1", primary.server.port)
    wait_until(lambda: replica.admin.info("replication")["master_link_status"] == "up")


def test_replica_is_found_and_examined(target: DoctorTarget, other: DoctorTarget) -> None:
    """Scripts are not replicated; that it lacks them is not reported."""
    follow(other, target)
    document = target.cli.json("doctor")

    assert [item["role"].partition(" ")[0] for item in document["servers"]] == [
        "primary",
        "replica",
    ]
    assert document["findings"] == []


def test_unreachable_node_is_found(target: DoctorTarget) -> None:
    """The operator named it."""
    (found,) = target.found("--node", "redis://127.0.0.1:1")

    assert (found["code"], found["node"]) == ("unreachable", "127.0.0.1:1")


def test_node_that_denies_the_user_is_skipped(target: DoctorTarget, other: DoctorTarget) -> None:
    """It is neither a failure nor a pass."""
    other.admin.execute_command("ACL", "SETUSER", OPS, "resetpass", ">new")
    document = target.cli.json("doctor", "--node", f"redis://{other.node}")

    assert [(item["check"], item["node"]) for item in document["skipped"]] == [
        ("everything", other.node)
    ]


def test_two_primaries_are_found(target: DoctorTarget, other: DoctorTarget) -> None:
    """For example after a failover that only one side knows of."""
    assert target.codes("--node", f"redis://{other.node}") == ["several-primaries"]


def test_replica_without_link_is_found(target: DoctorTarget, other: DoctorTarget) -> None:
    """Its data is old."""
    other.admin.config_set("masterauth", "wrong")
    other.admin.replicaof("127.0.0.1", target.server.port)
    found = target.found("--node", f"redis://{other.node}")

    assert "replica-unlinked" in [item["code"] for item in found if item["node"] == other.node]


def test_replica_with_another_policy_is_found(target: DoctorTarget, other: DoctorTarget) -> None:
    """A client wrote to it, or it follows another server."""
    follow(other, target)
    other.admin.config_set("replica-read-only", "no")
    other.admin.hset(NAMES.policy, "generation", 7)

    assert target.codes() == ["policy-behind"]


def test_lagging_replica_is_found(
    target: DoctorTarget, other: DoctorTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is lowered, so that the test need not wait."""
    follow(other, target)
    wait_until(lambda: target.admin.info("replication")["slave0"]["state"] == "online")
    monkeypatch.setattr(settings, "LAG_S", -1)

    (found,) = target.found()
    assert (found["code"], found["severity"]) == ("replica-lagging", "warning")
    assert other.node in found["message"]


def test_too_few_replicas_are_found(target: DoctorTarget, other: DoctorTarget) -> None:
    """The same policy has no finding with the replica."""
    policy = POLICY.replace("kind: machine", "kind: machine\n    durability: {wait_replicas: 1}", 1)
    target.with_policy(policy)
    assert target.codes() == ["too-few-replicas"]
    follow(other, target)

    assert target.found(exit_code=0) == []


@pytest.fixture
def ahead(clock: Path, tmp_path: Path) -> Any:
    """A server whose clock is an hour ahead."""
    binary = find_server_binaries()[embedded_label()]
    started = server_ahead(binary, clock, tmp_path, HOUR_S)
    with EmbeddedServer(binary=started, data=tmp_path / "ahead") as server:
        yield DoctorTarget(server, tmp_path).with_policy(POLICY)


def test_clock_that_is_ahead_is_found(ahead: DoctorTarget) -> None:
    """Compared with the clock of this machine."""
    (found,) = ahead.found()

    assert found["code"] == "clock-differs"
    assert "3600 s ahead" in found["message"] or "3599 s ahead" in found["message"]


def test_first_server_may_be_a_replica(target: DoctorTarget, other: DoctorTarget) -> None:
    """Its primary is found from there."""
    follow(other, target)

    examination = examine(other.admin)
    assert [server.name for server in examination.servers] == [other.node, target.node]
