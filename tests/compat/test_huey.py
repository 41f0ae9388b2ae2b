from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from huey import PriorityRedisHuey, RedisHuey

from compat.conftest import Guarded

LIBRARY = "huey"
BUNDLES = ["huey"]
POLICY = """
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["huey.*"], scripts: [huey]}
"""
CLIENT = """
from huey import RedisHuey

huey = RedisHuey("jobs", connection_pool=keyleash.pool(url, token))
"""


def make(guarded: Guarded, kind: Any = RedisHuey) -> Any:
    huey = kind("jobs", connection_pool=guarded.pool())

    @huey.task()
    def add(first: int, second: int) -> int:
        return first + second

    huey.add = add
    return huey


def run_one(huey: Any) -> None:
    task = huey.dequeue()
    assert task is not None
    huey.execute(task)


@pytest.mark.parametrize("kind", [RedisHuey, PriorityRedisHuey])
def test_tasks_run(guarded: Guarded, kind: Any) -> None:
    """Queue tasks, also by priority; run them and fetch their results"""
    huey = make(guarded, kind)
    result = huey.add(1, 2)
    run_one(huey)

    assert result.get(blocking=True, timeout=5) == 3


def test_consumer_runs_tasks(guarded: Guarded) -> None:
    """Consumer with its scheduler"""
    huey = make(guarded)
    consumer = huey.create_consumer(workers=1, periodic=False, initial_delay=0.01, max_delay=0.05)
    consumer.start()
    try:
        assert huey.add(1, 2).get(blocking=True, timeout=10) == 3
        later = huey.add.schedule((3, 4), delay=0.2)
        assert later.get(blocking=True, timeout=10) == 7
    finally:
        consumer.stop(graceful=True)


def test_tasks_are_scheduled(guarded: Guarded) -> None:
    """Schedule: tasks at a time"""
    huey = make(guarded)
    huey.add.schedule((1, 2), delay=60)
    run_one(huey)
    (task,) = huey.read_schedule(datetime.now(UTC) + timedelta(seconds=120))

    assert task.args == (1, 2)


def test_lock_excludes(guarded: Guarded) -> None:
    """Task locks"""
    huey = make(guarded)
    with huey.lock_task("lock"):
        assert huey.is_locked("lock")

    assert not huey.is_locked("lock")


def test_storage_is_flushed(guarded: Guarded) -> None:
    """Flush the queue, the schedule and results"""
    huey = make(guarded)
    huey.add(1, 2)
    huey.flush()

    assert len(huey) == 0
