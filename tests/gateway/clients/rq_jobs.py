"""RQ, by `rq worker --url` and `redis.Redis.from_url`."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from rq import Queue, Retry
from rq.job import Job
from steps import URL, denied, step

connection = redis.Redis.from_url(URL)
queue = Queue("jobs", connection=connection)


def add(first: int, second: int) -> int:
    return first + second


def fail() -> None:
    raise ValueError("this job fails")


def work(*options: str) -> None:
    """Run the worker until there are no jobs."""
    rq = Path(sys.executable).with_name("rq")
    command = [str(rq), "worker", "--burst", *options, "--url", URL, "jobs"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def result(job: Job) -> Any:
    return job.return_value(refresh=True)


def with_results() -> list[Any]:
    first = queue.enqueue("rq_jobs.add", 1, 2)
    second = queue.enqueue("rq_jobs.add", 3, 4, depends_on=first)
    third = queue.enqueue("rq_jobs.fail", retry=Retry(max=1))
    work()
    status = third.get_status(refresh=True)
    failure = third.latest_result()
    return [result(first), result(second), status, "this job fails" in failure.exc_string]


def scheduled() -> Any:
    job = queue.enqueue_in(timedelta(seconds=-1), "rq_jobs.add", 5, 6)
    work("--with-scheduler")
    return result(job)


if __name__ == "__main__":
    step("Worker, results, dependent jobs, retries", with_results, [3, 7, "failed", True])
    step("Scheduler: jobs at a time", scheduled, 11)
    denied("Denials, as errors", {"KEY_NOT_GRANTED": lambda: connection.lpush("other:key", "x")})
