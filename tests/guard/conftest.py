"""A leash on every available server, or on a cluster in its place (`support/clustered.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guard.cluster_exceptions import exception_of
from keyleash.addons.servers import EmbeddedCluster
from support.clustered import LABELS, LEASE, NODES, ClusterServer, grant_units, lend_server
from support.clusters import RealCluster, RealClusters
from support.leash import Leash
from support.modules import server_with_module
from support.servers import RealServer, RealServers, embedded_label


def pytest_configure() -> None:
    """Let all guards of the session grant the same number of units."""
    if LEASE:
        grant_units(LEASE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is not so on a cluster, and say why."""
    for item in items if NODES else ():
        reason = exception_of(item.path.stem, item.name)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Count the tests that ran on the cluster, and those that did not for each reason."""
    if not NODES:
        return
    done = terminalreporter.stats
    reasons = [str(report.longrepr[2]) for report in done.get("skipped", ())]
    count = len(done.get("passed", ())) + len(done.get("failed", ()))
    terminalreporter.write_line(f"{NODES} nodes, leases of {LEASE or 'any size'}: {count} ran")
    for reason, excepted in Counter(reasons).most_common():
        terminalreporter.write_line(f"{excepted} not: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session")
def lent_cluster(real_clusters: RealClusters) -> Iterator[ClusterServer | None]:
    """The cluster of the session, if tests run on one."""
    if not NODES:
        yield None
        return
    with real_clusters.lend(embedded_label(), primaries=NODES) as cluster:
        yield ClusterServer(cluster)


@pytest.fixture(params=LABELS)
def server(
    request: pytest.FixtureRequest, real_servers: RealServers, lent_cluster: ClusterServer | None
) -> Iterator[RealServer | ClusterServer]:
    """Every available server in turn, clean; or a cluster."""
    with lend_server(request.param, real_servers, lent_cluster) as server:
        yield server


@pytest.fixture
def embedded(
    real_servers: RealServers, lent_cluster: ClusterServer | None
) -> Iterator[RealServer | ClusterServer]:
    """The embedded Valkey, clean; or a cluster of it."""
    with lend_server(embedded_label(), real_servers, lent_cluster) as server:
        yield server


@pytest.fixture(scope="session")
def module_cluster(module: Path) -> Iterator[ClusterServer | None]:
    """A cluster with the test module loaded, if tests run on one."""
    if not NODES:
        yield None
        return
    with EmbeddedCluster(NODES, settings={"loadmodule": str(module)}) as process:
        yield ClusterServer(RealCluster(embedded_label(), process))


@pytest.fixture(params=LABELS)
def module_server(
    request: pytest.FixtureRequest,
    module: Path,
    tmp_path: Path,
    module_cluster: ClusterServer | None,
) -> Iterator[RealServer | ClusterServer]:
    """Every available server in turn, or a cluster, with the test module loaded."""
    if module_cluster is not None:
        module_cluster.clean()
        yield module_cluster
        return
    with server_with_module(request.param, tmp_path, module) as server:
        yield server


@pytest.fixture(params=LABELS)
def leash(
    request: pytest.FixtureRequest, real_servers: RealServers, lent_cluster: ClusterServer | None
) -> Iterator[Leash]:
    with lend_server(request.param, real_servers, lent_cluster) as server:
        yield Leash(server)
