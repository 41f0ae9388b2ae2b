from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from huey import PriorityRedisHuey

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "huey",
    recipe="""
from huey import RedisHuey

huey = RedisHuey("jobs", connection_pool=keyleash.pool(url, token))
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["huey.*"], scripts: [huey]}
""",
)


def make(recipe: Any, kind: Any = None) -> Any:
    huey = kind("jobs", connection_pool=recipe.huey.storage.pool) if kind else recipe.huey

    @huey.task()
    def add(first: int, second: int) -> int:
        return first + second

    huey.add = add
    return huey


def run_one(huey: Any) -> None:
    task = huey.dequeue()
    assert task is not None
    huey.execute(task)


@pytest.mark.parametrize("kind", [None, PriorityRedisHuey])
def test_tasks_run(recipe: Any, kind: Any) -> None:
    """Queue tasks, also by priority; run them and fetch their results"""
    huey = make(recipe, kind)
    result = huey.add(1, 2)
    run_one(huey)

    assert result.get(blocking=True, timeout=5) == 3


@every_scheme
def test_consumer_runs_tasks(recipe: Any) -> None:
    """Consumer with its scheduler"""
    huey = make(recipe)
    consumer = huey.create_consumer(workers=1, periodic=False, initial_delay=0.01, max_delay=0.05)
    consumer.start()
    try:
        assert huey.add(1, 2).get(blocking=True, timeout=10) == 3
        later = huey.add.schedule((3, 4), delay=0.2)
        assert later.get(blocking=True, timeout=10) == 7
    finally:
        consumer.stop(graceful=True)


def test_tasks_are_scheduled(recipe: Any) -> None:
    """Schedule: tasks at a time"""
    huey = make(recipe)
    huey.add.schedule((1, 2), delay=60)
    run_one(huey)
    (task,) = huey.read_schedule(datetime.now(UTC) + timedelta(seconds=120))

    assert task.args == (1, 2)


def test_lock_excludes(recipe: Any) -> None:
    """Task locks"""
    huey = make(recipe)
    with huey.lock_task("lock"):
        assert huey.is_locked("lock")

    assert not huey.is_locked("lock")


def test_storage_is_flushed(recipe: Any) -> None:
    """Flush the queue, the schedule and results"""
    huey = make(recipe)
    huey.add(1, 2)
    huey.flush()

    assert len(huey) == 0
