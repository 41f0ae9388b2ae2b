"""Celery, by the URL as broker and result backend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import celery
from steps import URL, denied, step

app = celery.Celery("celery_tasks", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = False


@app.task
def add(first: int, second: int) -> int:
    return first + second


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(bind=True, max_retries=2)
def retried(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return int(self.request.retries)


def chord() -> int:
    result: int = celery.chord([add.s(1, 2), add.s(3, 4)])(total.s()).get(timeout=30)
    return result


if __name__ == "__main__":
    # The module that the worker imports, so that tasks have their names.
    import celery_tasks as tasks

    command = [
        str(Path(sys.executable).with_name("celery")), "-A", "celery_tasks", "worker",
        "--pool", "solo", "--hostname", "celery@host", "--loglevel", "warning",
        "--without-gossip", "--without-mingle",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE) as worker:
        step("Worker and results", lambda: tasks.add.delay(1, 2).get(timeout=60), 3)
        step(
            "Tasks with a countdown",
            lambda: tasks.add.apply_async((1, 2), countdown=0.2).get(timeout=30),
            3,
        )
        step("Retries", lambda: tasks.retried.delay().get(timeout=30), 2)
        step("Chords", tasks.chord, 10)
        denied(
            "Denials, as errors", {"KEY_NOT_GRANTED": lambda: app.backend.client.get("other:key")}
        )
        worker.terminate()
