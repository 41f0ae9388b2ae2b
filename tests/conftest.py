"""Fixtures that every test may use: real servers, clean for each test."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support.clocks import clock_library
from support.clusters import RealCluster, RealClusters
from support.compiled import remember_compiled_guards
from support.modules import built_module, server_with_module, stack_of
from support.redis_py import close_pools, remember_pools
from support.servers import RealServer, RealServers, embedded_label, find_server_binaries

HOUR_ENDS_S = 15
"""How long a test may take that counts in one hour, day or month."""

ON_BOTH = {"commands", "durability", "failover", "gateway", "guard"}
"""The folders of what servers decide: other tests on a second one are slow."""

# An example takes long where the machine is busy, and that is no failure.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three for two cores: a third of the time a test waits for a server or a clock."""
    return max(1, len(os.sched_getaffinity(0)) * 3 // 2)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests on a server with modules, for `make stack`, and on a second one as slow."""
    if "stack_process" in getattr(item, "fixturenames", ()):
        item.add_marker("stack")
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    if folder not in ON_BOTH and any(name in item.nodeid for name in [*find_server_binaries()][1:]):
        item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Exempt all modules and tests from garbage collection, which would visit them each time."""
    remember_compiled_guards()
    remember_pools()
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Begin no test at the end of an hour, when the windows of budgets end."""
    left_s = 3600 - time.time() % 3600
    if left_s < HOUR_ENDS_S:
        time.sleep(left_s)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Close what the test has left open, after its fixtures."""
    close_pools()


@pytest.fixture(scope="session")
def real_servers() -> Iterator[RealServers]:
    """The session's server processes, each started when it is first lent."""
    servers = RealServers()
    try:
        yield servers
    finally:
        servers.stop()


@pytest.fixture(params=list(find_server_binaries()))
def server(request: pytest.FixtureRequest, real_servers: RealServers) -> Iterator[RealServer]:
    """Every available server in turn, clean."""
    with real_servers.lend(request.param) as server:
        yield server


@pytest.fixture
def embedded(real_servers: RealServers) -> Iterator[RealServer]:
    """The embedded Valkey, clean, for a test to which one server is enough."""
    with real_servers.lend(embedded_label()) as server:
        yield server


@pytest.fixture(scope="session")
def real_clusters() -> Iterator[RealClusters]:
    """The session's clusters, each started when it is first lent."""
    clusters = RealClusters()
    try:
        yield clusters
    finally:
        clusters.stop()


@pytest.fixture(params=list(find_server_binaries()))
def cluster(request: pytest.FixtureRequest, real_clusters: RealClusters) -> Iterator[RealCluster]:
    """A cluster of three primaries of every available server in turn, clean."""
    with real_clusters.lend(request.param) as cluster:
        yield cluster


@pytest.fixture
def embedded_cluster(real_clusters: RealClusters) -> Iterator[RealCluster]:
    """A cluster of three embedded primaries, clean, for a test to which one cluster is enough."""
    with real_clusters.lend(embedded_label()) as cluster:
        yield cluster


@pytest.fixture(params=list(find_server_binaries()))
def replicated_cluster(
    request: pytest.FixtureRequest, real_clusters: RealClusters
) -> Iterator[RealCluster]:
    """The same as `cluster`, with a replica for each primary: for tests that kill."""
    with real_clusters.lend(request.param, replicas=1) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test module, compiled."""
    return built_module(tmp_path_factory.mktemp("module"))


@pytest.fixture(params=list(find_server_binaries()))
def module_server(
    request: pytest.FixtureRequest, module: Path, tmp_path: Path
) -> Iterator[RealServer]:
    """Every available server in turn, started for the test with the test module loaded."""
    with server_with_module(request.param, tmp_path, module) as server:
        yield server


@pytest.fixture(scope="session")
def stack_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """The session's server with the modules of Redis Stack; skips tests where there is none."""
    with stack_of(tmp_path_factory.mktemp("stack")) as server:
        yield server


@pytest.fixture
def stack_server(stack_process: RealServer) -> Iterator[RealServer]:
    """A server with the modules of Redis Stack, clean."""
    stack_process.clean()
    yield stack_process
    stack_process.close_clients()


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that puts a server's clock forward."""
    return clock_library(tmp_path_factory.mktemp("clock"))
