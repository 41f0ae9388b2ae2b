"""A primary with a replica, on every available server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from support.replication import Node, nodes
from support.servers import find_server_binaries


class Pairs:
    """The pairs of servers of a session; each starts at its first use."""

    def __init__(self) -> None:
        self._started: dict[str, tuple[Node, Node]] = {}
        self._processes = contextlib.ExitStack()

    @contextlib.contextmanager
    def lend(self, label: str) -> Iterator[tuple[Node, Node]]:
        """Lend a clean pair to one test."""
        if label not in self._started:
            primary, replica = self._processes.enter_context(
                nodes(find_server_binaries()[label], 2)
            )
            self._started[label] = (primary, replica)
        primary, replica = self._started[label]
        primary.clean()
        primary.admin.wait(1, 10_000)
        try:
            yield primary, replica
        finally:
            replica.go_on()

    def stop(self) -> None:
        self._processes.close()


@pytest.fixture(scope="session")
def pairs() -> Iterator[Pairs]:
    pairs = Pairs()
    try:
        yield pairs
    finally:
        pairs.stop()


@pytest.fixture(params=list(find_server_binaries()))
def pair(request: pytest.FixtureRequest, pairs: Pairs) -> Iterator[tuple[Node, Node]]:
    """A primary and its replica, which a test may pause, and which later tests reuse."""
    with pairs.lend(request.param) as pair:
        yield pair


@pytest.fixture(params=list(find_server_binaries()))
def mortals(request: pytest.FixtureRequest) -> Iterator[tuple[Node, Node]]:
    """A primary and its replica, which a test may stop and promote."""
    with nodes(find_server_binaries()[request.param], 2) as (primary, replica):
        yield primary, replica
