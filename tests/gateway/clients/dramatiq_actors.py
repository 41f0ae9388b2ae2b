"""dramatiq, by `RedisBroker(url=…)`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from steps import URL, denied, step

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def add(first: int, second: int) -> int:
    return first + second


tries: list[int] = []


@dramatiq.actor(store_results=True, max_retries=2, min_backoff=10)
def retried() -> int:
    tries.append(1)
    if len(tries) < 3:
        raise ValueError("try again")
    return len(tries)


if __name__ == "__main__":
    command = [
        str(Path(sys.executable).with_name("dramatiq")), "dramatiq_actors",
        "--processes", "1", "--threads", "2",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as worker:
        step("Worker and results", lambda: add.send(1, 2).get_result(block=True, timeout=60000), 3)
        step(
            "Messages with a delay",
            lambda: add.send_with_options(args=(3, 4), delay=200).get_result(
                block=True, timeout=30000
            ),
            7,
        )
        step("Retries", lambda: retried.send().get_result(block=True, timeout=30000), 3)
        denied("Denials, as errors", {"KEY_NOT_GRANTED": lambda: broker.client.get("other:key")})
        worker.terminate()
