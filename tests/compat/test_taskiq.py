from __future__ import annotations

import asyncio
from typing import Any

from taskiq.api import run_receiver_task
from taskiq_redis import ListQueueBroker, PubSubBroker, RedisAsyncResultBackend, RedisStreamBroker

import keyleash
from compat.conftest import Guarded

LIBRARY = "taskiq-redis"
CLIENT = """
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

guarded = keyleash.asyncio.connection_class(token)
results = RedisAsyncResultBackend(url, connection_class=guarded)
broker = RedisStreamBroker(url, connection_class=guarded).with_result_backend(results)
"""


def run(guarded: Guarded, kind: Any) -> Any:
    async def use() -> Any:
        options = {"connection_class": keyleash.asyncio.connection_class(guarded.token)}
        results = RedisAsyncResultBackend(guarded.url, **options)
        broker = kind(guarded.url, **options).with_result_backend(results)

        @broker.task
        async def add(first: int, second: int) -> int:
            return first + second

        await broker.startup()
        receiver = asyncio.ensure_future(run_receiver_task(broker))
        await asyncio.sleep(0.3)
        try:
            task = await add.kiq(1, 2)
            return (await task.wait_result(timeout=10)).return_value
        finally:
            receiver.cancel()
            await asyncio.gather(receiver, return_exceptions=True)
            await broker.shutdown()

    return asyncio.run(use())


def test_list_broker_runs_tasks(guarded: Guarded) -> None:
    """List broker with a result backend"""
    assert run(guarded, ListQueueBroker) == 3


def test_stream_broker_runs_tasks(guarded: Guarded) -> None:
    """Stream broker with a result backend"""
    assert run(guarded, RedisStreamBroker) == 3


def test_channel_broker_runs_tasks(guarded: Guarded) -> None:
    """Pub/Sub broker with a result backend"""
    assert run(guarded, PubSubBroker) == 3
