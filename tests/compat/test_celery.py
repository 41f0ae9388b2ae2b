from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import celery
import pytest
from celery.backends.redis import RedisBackend
from celery.contrib.testing.worker import start_worker
from kombu.transport.redis import Transport

from compat.conftest import Guarded, every_scheme
from compat.page import Library

LIBRARY = Library(
    "celery",
    recipe="""
from celery import Celery
from celery.backends.redis import RedisBackend
from kombu.transport.redis import Channel, Transport


class GuardedChannel(Channel):
    def _get_pool(self, asynchronous=False):
        pool = super()._get_pool(asynchronous)
        pool.connection_class = keyleash.connection_class(token, pool.connection_class)
        assert keyleash.is_guarded(pool)
        return pool


def guarded_pool(connection_class=redis.Connection, **options):
    guarded = keyleash.connection_class(token, connection_class)
    return redis.ConnectionPool(connection_class=guarded, **options)


Transport.Channel = GuardedChannel
RedisBackend.ConnectionPool = staticmethod(guarded_pool)
app = Celery("jobs", broker=url, backend=url)
assert keyleash.is_guarded(app.backend.client)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # The queue `celery`, results, and workers with the default name, `celery@HOST`.
      - allow: [read, write, delete]
        keys: ["celery*", "_kombu.binding*", "unacked*"]
        scripts: [celery, kombu]
      - {allow: [publish, subscribe], channels: ["celery-task-meta-*", "/0.celery*"]}
""",
    unix="redis+socket://{}?virtual_host=0",
    note="A `rediss:` URL needs `ssl_cert_reqs`, as Celery does in any case.",
)

pytestmark = pytest.mark.timeout(60)
"""Celery's `start_worker` waits for a worker that has ended."""


@pytest.fixture
def app(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # The recipe replaces these, for this process.
    monkeypatch.setattr(Transport, "Channel", Transport.Channel)
    monkeypatch.setattr(RedisBackend, "ConnectionPool", RedisBackend.ConnectionPool)
    app = guarded.run(LIBRARY.recipe).app
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
    with start_worker(
        app, hostname="celery@host", pool="solo", perform_ping_check=False, shutdown_timeout=20
    ):
        yield


@every_scheme
def test_tasks_are_sent(app: Any, guarded: Guarded) -> None:
    """Send tasks"""
    app.tasks["add"].apply_async((1, 2), ignore_result=True)

    assert guarded.leash.admin.llen("celery") == 1


@every_scheme
def test_results_are_stored(app: Any) -> None:
    """Result backend: store and fetch results"""
    app.backend.store_result("task-1", 3, "SUCCESS")

    assert app.AsyncResult("task-1").get(timeout=5) == 3


@every_scheme
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
