"""Learn a policy from a large audit log, and try it on that: duration, and memory of this process.

    python -m benchmarks.learning [--events 1000000] [--server NAME]

The stream is written without guards, in their form, by a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from benchmarks.support.policy import operator_of
from benchmarks.support.servers import EMBEDDED, choose_servers, running, version_of

import keyleash
from keyleash.store.keyspace import Keyspace

POLICY = """\
version: 1
identities:
  worker:
    kind: machine
    grants: [{allow: [read, write, delete], keys: ["*"]}]
    audit: {reads: true, retain: 100000000}
"""
PAGE = 5_000
EVERY_MS = 40


def main(argv: list[str] | None = None) -> int:
    """Print duration, memory and what was learned."""
    parser = argparse.ArgumentParser(prog="learning", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--server", default=EMBEDDED, help="default: %(default)s")
    options = parser.parse_args(argv)
    (choice,) = choose_servers([options.server])
    with running(choice, None) as server, redis.Redis.from_url(server.url) as admin:
        print(version_of(admin))
        operator = operator_of(admin)
        operator.load(keyleash.Policy(POLICY))
        writer = multiprocessing.get_context("spawn").Process(
            target=fill, args=(server.url, options.events)
        )
        writer.start()
        writer.join()
        with measured("learn"):
            learned = operator.learn("worker")
        (identity,) = learned.identities
        print(f"{identity.coverage.calls} calls")
        print("\n".join(rule.pattern for rule in identity.rules))
        policy = keyleash.Policy(learned.files()["learned.yaml"])
        with measured("backtest"):
            tested = operator.backtest(policy)
        print(*(f"{count} {outcome}" for outcome, count in tested.outcomes.items()))
    return 0


@contextmanager
def measured(name: str) -> Iterator[None]:
    """Print the duration of a block, its CPU time, and the memory so far."""
    begun, used = time.perf_counter(), time.process_time()
    yield
    duration, cpu = time.perf_counter() - begun, time.process_time() - used
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name}: {duration:.1f} s, {cpu:.1f} s of CPU, {memory:.0f} MB at most")


def fill(url: str, count: int) -> None:
    """Append events to the stream of the identity."""
    calls, begin = commands(random.Random(1)), time.time_ns() // 1_000_000 - count * EVERY_MS
    with redis.Redis.from_url(url) as client, client.pipeline(transaction=False) as pipe:
        for number in range(1, count + 1):
            command, key, cost = next(calls)
            pipe.execute_command(
                *("XADD", Keyspace().audit("worker"), f"{begin + number * EVERY_MS}-0"),
                *("seq", number, "token", "x5fgg7i3evji", "policy", f"8b99e023515e {cost}"),
                *("correlation", "", command, key),
            )
            if number % PAGE == 0 or number == count:
                pipe.execute()


def commands(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yield a command, its key, and what it takes of limits."""
    while True:
        job, day = rng.randrange(1_000_000), rng.randrange(1, 29)
        yield "GET", f"agents:jobs:{job}:state", "1,1r"
        yield "SET", f"agents:jobs:{job}:state", "1,1w"
        yield "HSET", f"sess:{uuid.UUID(int=rng.getrandbits(128))}", "1,1w"
        yield "LPOP", f"queue:{rng.choice(['high', 'low'])}", "1,1r,1d"
        yield "INCRBY", f"visits:2026-{rng.randrange(1, 13):02}-{day:02}", "1,1r,1w"


if __name__ == "__main__":
    sys.exit(main())
