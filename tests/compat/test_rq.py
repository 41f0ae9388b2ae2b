from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from rq import Queue, SimpleWorker, Worker

from compat.conftest import Guarded, every_scheme
from compat.page import Library


def script_of_empty() -> str:
    connection = mock.MagicMock()
    Queue("jobs", connection=connection).empty()
    text: bytes = connection.register_script.call_args.args[0]
    return text.decode()


LIBRARY = Library(
    "rq",
    recipe="""
from rq import Queue, Worker

connection = redis.Redis(connection_pool=keyleash.pool(url, token, wait=True))
queue = Queue("jobs", connection=connection)
worker = Worker([queue], connection=connection)
""",
    policy="""
version: 1
scripts:
  empty: {file: 1.lua}
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["rq:*"], scripts: [rq, empty]}
      - {allow: [publish, subscribe], channels: ["rq:*"]}
""",
    scripts=[script_of_empty()],
    texts="the text that `Queue.empty` registers, for that method alone",
    note="A worker ends at a denial; with `wait=True` it waits for a rate.",
)


def add(first: int, second: int) -> int:
    return first + second


def fail() -> None:
    raise ValueError("this job fails")


def run(queue: Queue, worker_class: Any = SimpleWorker) -> None:
    worker_class([queue], connection=queue.connection).work(burst=True, logging_level="WARNING")


@pytest.fixture
def queue(recipe: Any) -> Queue:
    return recipe.queue


def test_worker_waits_for_a_rate(queue: Queue, guarded: Guarded) -> None:
    """Worker that waits for a rate, with `wait=True`"""
    rate = "kind: machine\n    rate: {requests: {limit: 6000/minute, burst: 20}}"
    guarded.load(LIBRARY.policy.replace("kind: machine", rate))
    job = queue.enqueue(add, 1, 2)
    run(queue)

    assert job.return_value(refresh=True) == 3


def test_jobs_are_enqueued(queue: Queue) -> None:
    """Enqueue, fetch and cancel jobs"""
    first, second = queue.enqueue(add, 1, 2), queue.enqueue(add, 3, 4)
    second.cancel()

    assert queue.job_ids == [first.id]
    assert queue.fetch_job(first.id).args == (1, 2)


@every_scheme
def test_worker_runs_jobs(queue: Queue) -> None:
    """Worker that forks for each job, results and failures"""
    done, failed = queue.enqueue(add, 1, 2), queue.enqueue(fail)
    run(queue, Worker)

    assert done.return_value(refresh=True) == 3
    assert failed.get_status(refresh=True) == "failed"
    assert "this job fails" in failed.latest_result().exc_string


def test_job_waits_for_another(queue: Queue) -> None:
    """Dependent jobs"""
    first = queue.enqueue(add, 1, 2)
    second = queue.enqueue(add, 3, 4, depends_on=first)
    run(queue)

    assert second.return_value(refresh=True) == 7


def test_job_is_scheduled(queue: Queue) -> None:
    """Scheduler: jobs at a time"""
    job = queue.enqueue_in(timedelta(seconds=-1), add, 1, 2)
    worker = SimpleWorker([queue], connection=queue.connection)
    worker.work(burst=True, with_scheduler=True, logging_level="WARNING")

    assert job.return_value(refresh=True) == 3


def test_queue_is_emptied(queue: Queue) -> None:
    """Empty a queue"""
    queue.enqueue(add, 1, 2)
    queue.empty()

    assert queue.count == 0
