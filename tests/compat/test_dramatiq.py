from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq.rate_limits.backends import RedisBackend as RateLimiterBackend
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from compat.conftest import Guarded, every_scheme
from compat.page import Library

LIBRARY = Library(
    "dramatiq",
    recipe="""
from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(client=redis.Redis(connection_pool=keyleash.pool(url, token)))
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - allow: [read, write, delete]
        keys: [dramatiq, "dramatiq:*"]
        scripts: [dramatiq]
      # The keys of results are digests, without a prefix. It also covers those of rate limiters.
      - {allow: [read, write, delete], keys: ["{result}"]}
""",
)


@pytest.fixture
def broker(recipe: Any, guarded: Guarded) -> Iterator[Any]:
    broker = recipe.broker
    broker.add_middleware(Results(backend=RedisBackend(client=guarded.client())))
    dramatiq.set_broker(broker)
    yield broker
    broker.close()


@every_scheme
def test_worker_runs_messages(broker: Any) -> None:
    """Worker, results, and messages with a delay"""

    @dramatiq.actor(broker=broker, store_results=True)
    def add(first: int, second: int) -> int:
        return first + second

    worker = dramatiq.Worker(broker, worker_timeout=100)
    worker.start()
    try:
        message, later = add.send(1, 2), add.send_with_options(args=(3, 4), delay=100)
        assert message.get_result(block=True, timeout=10_000) == 3
        assert later.get_result(block=True, timeout=10_000) == 7
    finally:
        worker.stop()


def test_results_are_stored(guarded: Guarded) -> None:
    """Result backend"""
    backend = RedisBackend(client=guarded.client())
    message = dramatiq.Message("jobs", "add", (), {}, {})
    backend.store_result(message, 3, 10_000)

    assert backend.get_result(message, block=True, timeout=1000) == 3


def test_rate_limiter_counts(guarded: Guarded) -> None:
    """Rate limiters: counters with a watch"""
    backend = RateLimiterBackend(client=guarded.client())

    assert backend.add("limit", 1, 10_000)
    assert backend.incr("limit", 1, 3, 10_000)
    assert not backend.incr("limit", 5, 3, 10_000)
    assert backend.decr("limit", 1, 0, 10_000)
