"""Rates over the nodes of a cluster: never exceeded, and nearly as many calls as on one server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import keyleash
from support.clusters import RealCluster
from support.leash import grant, policy
from support.servers import RealServer

SECONDS = 6
THREADS = 4
PART = 0.8
"""The least part of the calls on one server that a cluster allows."""
ATTEMPTS = 3
"""Measurements, of which one must reach it: threads that wake late lose calls."""


def run(op: keyleash.Operator, connect: Callable[..., Any], limit: Any) -> list[int]:
    """Call from threads that wait for a while; return the times of the calls that ran, sorted."""
    body = {"grants": [grant("write", keys="t:*")], "rate": {"writes": limit}}
    op.load(keyleash.Policy(policy(agent=body)))
    token = op.tokens.issue("agent").token
    begun = op.now()
    end_s = time.monotonic() + SECONDS

    def work(number: int) -> None:
        client = connect(token=token)
        calls = 0
        while time.monotonic() < end_s:
            # Its keys are spread over all nodes.
            client.set(f"t:{number}:{calls}", 1)
            calls += 1
        client.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(event.time_ms for event in op.audit.events("agent", since=begun))


def assert_within(times: list[int], most: int, burst: int | None) -> None:
    """Assert that no stretch of time has more calls than the limit, in whole milliseconds."""
    for first, begun_ms in enumerate(times):
        for count, time_ms in enumerate(times[first:], 1):
            spread_ms = time_ms - begun_ms
            if burst is None:
                assert count <= most or spread_ms + 1 >= 1000
            else:
                assert count <= burst + (spread_ms + 1) * most / 1000
            if spread_ms > 1000:
                break


@pytest.mark.slow
@pytest.mark.parametrize(("most", "burst"), [(10, None), (10, 5), (10, 2), (100, 10)], ids=str)
def test_cluster_allows_nearly_as_many_calls_as_one_server(
    embedded: RealServer, embedded_cluster: RealCluster, most: int, burst: int | None
) -> None:
    """And never more than the limit in any stretch of time, by the times of the events."""
    limit = f"{most}/second" if burst is None else {"limit": f"{most}/second", "burst": burst}

    def counted(url: str, kind: type[keyleash.Redis | keyleash.RedisCluster]) -> int:
        with keyleash.Operator.from_url(url) as op:
            times = run(op, partial(kind.from_url, url, wait=True), limit)
        assert_within(times, most, burst)
        return len(times)

    least = PART * counted(embedded.url, keyleash.Redis)
    counts: list[int] = []
    while max(counts, default=0) < least and len(counts) < ATTEMPTS:
        counts.append(counted(embedded_cluster.url, keyleash.RedisCluster))
    assert max(counts) >= least, (least, counts)
