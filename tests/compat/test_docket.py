from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from docket._redis import RedisConnection

from compat.conftest import Guarded, every_scheme
from compat.page import Library

LIBRARY = Library(
    "pydocket",
    recipe="""
from docket import Docket, Worker
from docket._redis import RedisConnection

plain = RedisConnection._connection_pool_from_url


async def guarded(self, *args, **options):
    pool = await plain(self, *args, **options)
    pool.connection_class = keyleash.asyncio.connection_class(token, pool.connection_class)
    assert keyleash.is_guarded(pool)
    return pool


RedisConnection._connection_pool_from_url = guarded
docket = Docket(name="jobs", url=url)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # Of the docket `jobs`.
      - {allow: [read, write, delete], keys: ["jobs:*"], scripts: [docket]}
      - {allow: [publish, subscribe], channels: ["jobs:*"]}
""",
)


@pytest.fixture
def opened(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> Any:
    # The recipe replaces it, for this process.
    plain = RedisConnection._connection_pool_from_url
    monkeypatch.setattr(RedisConnection, "_connection_pool_from_url", plain)
    return guarded.run(LIBRARY.recipe)


async def double(number: int) -> int:
    return number * 2


@every_scheme
def test_worker_runs_tasks(opened: Any) -> None:
    """Worker, tasks at a time and their results"""

    async def use() -> Any:
        async with opened.docket as docket, opened.Worker(docket) as worker:
            now = await docket.add(double)(21)
            later = await docket.add(double, when=soon())(4)
            await worker.run_until_finished()
            return await now.get_result(), await later.get_result()

    assert asyncio.run(use()) == (42, 8)


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(milliseconds=100)
