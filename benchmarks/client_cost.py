"""What a guarded client costs its process, in redis-py's own calls.

    PYTHONPATH=loader python benchmarks/client_cost.py

The bars: the median time of `set` is at most 1.20 times redis-py's; 50 asyncio tasks make at least
0.95 times the calls per second that they make with redis.asyncio. Exit status 1 if one is missed
on any server. See benchmarks/README.md.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
import redis.asyncio

import keyleash
import keyleash.asyncio
from keyleash.server import EmbeddedServer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.bars import Bar, Side
from benchmarks.support.client_report import ClientReport
from benchmarks.support.clients import (
    JOB_KEY,
    Comparison,
    Kind,
    compared,
    paces,
    set_p50,
)
from benchmarks.support.command import Plan, heading, options_of, run
from benchmarks.support.policy import Target, load_target
from benchmarks.support.servers import (
    Cores,
    ServerChoice,
    choose_cores,
    pinned,
    running,
    version_of,
)
from benchmarks.support.variants import KEY, VALUE, Counts
from benchmarks.support.waits import waiting_for_cores

P50_BAR = 1.20
"""Median time of `set`, in redis-py's."""
ASYNC_BAR = 0.95
"""Calls per second of 50 tasks, by those with redis.asyncio."""

TASKS = 50
SIZE = 16
"""Commands in a pipeline or batch."""

KEYS = tuple(KEY.format(job=f"{job:012d}") for job in range(SIZE))

ONE = Counts(passed=1, audited=1)
SIXTEEN = Counts(passed=SIZE, audited=1)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and say by the exit status whether the bars are met."""
    parser = options_of(
        "client_cost", __doc__, rounds=21, requests=800, of="commands of each kind in a round"
    )
    options = parser.parse_args(argv)
    plan = Plan(options.rounds, options.requests, (1,), options.protocol)
    cores = choose_cores()
    return run("client_cost", options, lambda choice: measure(choice, plan, cores))


def measure(choice: ServerChoice, plan: Plan, cores: Cores) -> ClientReport:
    """Start one server and compare the clients on it."""
    with (
        running(choice, cores.server) as server,
        pinned(cores.client),
        redis.Redis.from_url(server.url) as admin,
    ):
        target = load_target(admin)
        with waiting_for_cores(server.pid) as waited:
            one_by_one = set_p50(
                server.url,
                admin,
                target,
                calls=plan.requests,
                rounds=plan.rounds,
                protocol=plan.protocol,
            )
            tasks = compare_tasks(server, admin, target, plan)
            pipelines = compare_pipelines(server, admin, target, plan)
        version = version_of(admin)
        return ClientReport(
            heading=heading(version, choice.name, plan, cores, "commands of each kind"),
            version=version,
            rows=(one_by_one, tasks, *pipelines),
            waited=waited.share,
            bars=(
                Bar(
                    "p50 of `set`",
                    Side.AT_MOST,
                    P50_BAR,
                    "redis-py's",
                    one_by_one.ratio.median,
                ),
                Bar(
                    f"calls per s of {TASKS} asyncio tasks",
                    Side.AT_LEAST,
                    ASYNC_BAR,
                    "redis.asyncio's",
                    tasks.ratio.median,
                ),
            ),
        )


def compare_tasks(
    server: EmbeddedServer, admin: redis.Redis, target: Target, plan: Plan
) -> Comparison:
    """Fifty tasks, each of which sets again and again."""
    each = max(1, plan.requests // TASKS)

    async def set_in_tasks(client: Any, calls: int) -> None:
        async def task() -> None:
            for _ in range(calls // TASKS):
                await client.set(JOB_KEY, VALUE)

        await asyncio.gather(*(task() for _ in range(TASKS)))

    with asyncio.Runner() as runner:
        raw = redis.asyncio.Redis.from_url(server.url, protocol=plan.protocol)
        guarded = keyleash.asyncio.Redis.from_url(
            server.url, token=target.token, protocol=plan.protocol
        )
        try:
            kinds = (
                Kind("raw", lambda calls: runner.run(set_in_tasks(raw, calls))),
                Kind("guarded", lambda calls: runner.run(set_in_tasks(guarded, calls)), counts=ONE),
            )
            runs = paces(admin, target, [(kind, each * TASKS) for kind in kinds], plan.rounds)
        finally:
            runner.run(raw.aclose())
            runner.run(guarded.aclose())
    return compared(f"asyncio, {TASKS} tasks", runs["raw"], runs["guarded"])


def compare_pipelines(
    server: EmbeddedServer, admin: redis.Redis, target: Target, plan: Plan
) -> list[Comparison]:
    """Pipelines and batches of SETs, per command."""
    with (
        redis.Redis.from_url(server.url, protocol=plan.protocol) as raw,
        keyleash.Redis.from_url(server.url, token=target.token, protocol=plan.protocol) as guarded,
    ):
        kinds = (
            Kind("raw", again(lambda: pipeline_of(raw, transaction=False)), SIZE),
            Kind("guarded", again(lambda: pipeline_of(guarded, transaction=False)), SIZE, SIXTEEN),
            Kind("raw atomic", again(lambda: pipeline_of(raw, transaction=True)), SIZE),
            Kind(
                "guarded atomic",
                again(lambda: pipeline_of(guarded, transaction=True)),
                SIZE,
                SIXTEEN,
            ),
            Kind("batch", again(lambda: batch_of(guarded)), SIZE, SIXTEEN),
        )
        calls = max(1, plan.requests // SIZE)
        runs = paces(admin, target, [(kind, calls) for kind in kinds], plan.rounds)
    return [
        compared(name, runs[base], runs[kind])
        for name, base, kind in (
            (f"pipeline(transaction=False) of {SIZE}", "raw", "guarded"),
            (f"pipeline(transaction=True) of {SIZE}", "raw atomic", "guarded atomic"),
            (f"batch of {SIZE}; redis-py: transaction=True", "raw atomic", "batch"),
            (f"batch of {SIZE}; redis-py: transaction=False", "raw", "batch"),
        )
    ]


def again(function: Callable[[], object]) -> Callable[[int], None]:
    """*function*, so many times."""

    def run_times(calls: int) -> None:
        for _ in range(calls):
            function()

    return run_times


def pipeline_of(client: redis.Redis, *, transaction: bool) -> None:
    """One pipeline of SETs."""
    with client.pipeline(transaction=transaction) as pipe:
        for key in KEYS:
            pipe.set(key, VALUE)
        pipe.execute()


def batch_of(client: keyleash.Redis) -> None:
    """One batch of SETs."""
    with client.batch() as batch:
        for key in KEYS:
            batch.set(key, VALUE)


if __name__ == "__main__":
    sys.exit(main())
