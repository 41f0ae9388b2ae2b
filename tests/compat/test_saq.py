from __future__ import annotations

import asyncio
import time
from typing import Any

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "saq",
    recipe="""
from saq.queue.redis import RedisQueue
from saq.worker import Worker


async def double(ctx, *, number):
    return number * 2


pool = keyleash.asyncio.pool(url, token)
queue = RedisQueue(redis.asyncio.Redis(connection_pool=pool), name="jobs")
worker = Worker(queue, functions=[double])
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # Of the queue `jobs`.
      - allow: [read, write, delete]
        keys: ["saq:jobs:*", "saq:job:jobs:*", "saq:abort:*"]
        scripts: [saq]
      - {allow: [publish, subscribe], channels: ["saq:job:jobs:*"]}
""",
)


@every_scheme
def test_worker_runs_jobs(recipe: Any) -> None:
    """Worker with its scheduler, results and the state of a queue"""

    async def use() -> Any:
        await recipe.queue.connect()
        # A worker sweeps when it starts, and aborts what another of its tasks has just taken.
        await recipe.queue.sweep()
        running = asyncio.ensure_future(recipe.worker.start())
        result = await recipe.queue.apply("double", number=21, timeout=60)
        later = await recipe.queue.enqueue("double", number=1, scheduled=time.time() + 3600)
        info = await recipe.queue.info()
        await later.abort("not needed")
        await recipe.worker.stop()
        await asyncio.gather(running, return_exceptions=True)
        await recipe.queue.disconnect()
        return result, info["scheduled"]

    assert asyncio.run(use()) == (42, 1)
