from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import celery
import pytest
import redis
from celery.backends.redis import RedisBackend
from celery.contrib.testing.worker import start_worker
from kombu.transport.redis import Channel

import keyleash
from compat.conftest import Guarded

LIBRARY = "celery"
BUNDLES = ["celery", "kombu"]
CLIENT = """
import functools

from celery import Celery
from celery.backends.redis import RedisBackend
from kombu.transport.redis import Channel

guarded = keyleash.connection_class(token)
Channel.connection_class = guarded
RedisBackend.ConnectionPool = functools.partial(redis.ConnectionPool, connection_class=guarded)
app = Celery(broker=url, backend=url)
"""


@pytest.fixture
def app(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    connection_class = keyleash.connection_class(guarded.token)
    pool = functools.partial(redis.ConnectionPool, connection_class=connection_class)
    monkeypatch.setattr(Channel, "connection_class", connection_class)
    monkeypatch.setattr(RedisBackend, "ConnectionPool", pool)
    app = celery.Celery("jobs", broker=guarded.url, backend=guarded.url)
    app.conf.broker_connection_retry_on_startup = False
    app.conf.worker_hijack_root_logger = False

    @app.task(name="add")
    def add(first: int, second: int) -> int:
        return first + second

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    app.finalize()
    yield app
    app.close()


@pytest.fixture
def worker(app: Any) -> Iterator[None]:
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=20):
        yield


def test_tasks_are_sent(app: Any, guarded: Guarded) -> None:
    """Send tasks"""
    app.tasks["add"].apply_async((1, 2), ignore_result=True)

    assert guarded.leash.admin.llen("celery") == 1


def test_results_are_stored(app: Any) -> None:
    """Result backend: store and fetch results"""
    app.backend.store_result("task-1", 3, "SUCCESS")

    assert app.AsyncResult("task-1").get(timeout=5) == 3


@pytest.mark.usefixtures("worker")
def test_worker_runs_tasks(app: Any) -> None:
    """Worker with its result backend"""
    assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3


@pytest.mark.usefixtures("worker")
def test_worker_runs_a_task_later(app: Any) -> None:
    """Tasks with a countdown"""
    assert app.tasks["add"].apply_async((1, 2), countdown=0.2).get(timeout=20) == 3


@pytest.mark.usefixtures("worker")
def test_chord_collects_results(app: Any) -> None:
    """Chords"""
    add, total = app.tasks["add"], app.tasks["total"]
    result = celery.chord([add.s(1, 2), add.s(3, 4)])(total.s())

    assert result.get(timeout=20) == 10
