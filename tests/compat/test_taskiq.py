from __future__ import annotations

import asyncio
from typing import Any

import taskiq_redis
from taskiq.api import run_receiver_task

import keyleash
from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "taskiq-redis",
    recipe="""
from redis.asyncio import BlockingConnectionPool
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker


def guarded_pool():
    return keyleash.asyncio.pool(url, token, pool_class=BlockingConnectionPool)


results = RedisAsyncResultBackend(url)
results.redis_pool = guarded_pool()
broker = RedisStreamBroker(url).with_result_backend(results)
broker.connection_pool = guarded_pool()
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # Of the queue `taskiq`; results have their ids as keys.
      - {allow: [read, write, delete], keys: [taskiq, "autoclaim:*"]}
      - {allow: [read, write], keys: ["{result}"]}
      # For `PubSubBroker`.
      - {allow: [publish, subscribe], channels: [taskiq]}
""",
)


def run(recipe: Any, kind: Any) -> Any:
    async def use() -> Any:
        broker = kind(recipe.url).with_result_backend(recipe.results)
        broker.connection_pool = recipe.guarded_pool()
        assert keyleash.is_guarded(recipe.results.redis_pool)

        @broker.task
        async def add(first: int, second: int) -> int:
            return first + second

        await broker.startup()
        receiver = asyncio.ensure_future(run_receiver_task(broker))
        await asyncio.sleep(0.3)
        try:
            task = await add.kiq(1, 2)
            return (await task.wait_result(timeout=60)).return_value
        finally:
            receiver.cancel()
            await asyncio.gather(receiver, return_exceptions=True)
            await broker.shutdown()

    return asyncio.run(use())


def test_list_broker_runs_tasks(recipe: Any) -> None:
    """List broker with a result backend"""
    assert run(recipe, taskiq_redis.ListQueueBroker) == 3


@every_scheme
def test_stream_broker_runs_tasks(recipe: Any) -> None:
    """Stream broker with a result backend"""
    assert run(recipe, taskiq_redis.RedisStreamBroker) == 3


def test_channel_broker_runs_tasks(recipe: Any) -> None:
    """Pub/Sub broker with a result backend"""
    assert run(recipe, taskiq_redis.PubSubBroker) == 3
