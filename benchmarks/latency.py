"""Time per call through clients: redis-py, keyleash, asyncio, pipelines and batches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from benchmarks.support.bars import Bar, Side
from benchmarks.support.by_hand import GUARD_SCRIPT
from benchmarks.support.clients import Kind, Trial, Work
from benchmarks.support.latencies import LatencyRow, figures_of, rows_of, table_of
from benchmarks.support.policy import load_target
from benchmarks.support.section import Section, Setting, joined
from benchmarks.support.servers import ServerChoice, running, version_of
from benchmarks.support.variants import KEY, VALUE, Counts

import keyleash
import keyleash.asyncio

NAME = "latency"

SIZE = 16
"""Commands in a pipeline or batch."""
TASKS = 50

KEYS = tuple(KEY.format(job=f"{job:012d}") for job in range(SIZE))
(FIRST, *_) = KEYS

ONE = Counts(passed=1, audited=1)
SIXTEEN = Counts(passed=SIZE, audited=1)

RAW, GUARDED = "redis-py", "keyleash"
OVER_POOL = f"{RAW} over keyleash.pool"
BY_HAND = f"{RAW}, EVALSHA by hand"
RAW_PIPELINE = f"{RAW}, pipeline(transaction=False)"
PIPELINE = f"{GUARDED}, pipeline(transaction=False)"
RAW_ATOMIC = f"{RAW}, pipeline()"
RAW_TASKS, TASKS_OF_ITS = "redis.asyncio", "keyleash.asyncio"
COALESCED = f"{TASKS_OF_ITS}, coalesce=True"


def measure(setting: Setting) -> Section:
    """Measure every server in turn."""
    return joined(NAME, [measure_on(choice, setting) for choice in setting.servers])


def measure_on(choice: ServerChoice, setting: Setting) -> Section:
    """Start a server and compare the clients on it."""
    rounds, run_s = (2, 0.07) if setting.quick else (4, 0.25)
    with (
        running(choice, setting.cores.server) as server,
        redis.Redis.from_url(server.url) as admin,
        asyncio.Runner() as runner,
    ):
        target = load_target(admin)
        trial = Trial(server.pid, admin, target, runner, setting.cores, rounds, run_s)
        with works(server.url, target.token, runner) as all_works:
            tried = [trial.rounds_of(work) for work in all_works]
        version = version_of(admin)
    rows = {item.work.name: rows_of(item) for item in tried}
    every_row = [row for some in rows.values() for row in some]
    text = [
        f"{version} ({choice.name}); {rounds} rounds, in each {run_s:g} s of every kind and load;"
        f" server and blocking clients on core {setting.cores.server}, tasks on core"
        f" {setting.cores.client}",
        *(table_of(item, rows[item.work.name]) for item in tried),
    ]
    return Section(
        NAME,
        "\n".join(text),
        figures_of(every_row, version),
        tuple((version, bar) for bar in bars_of(every_row)),
        noisy=any(item.waited.noisy for item in tried),
    )


@contextlib.contextmanager
def works(url: str, token: str, runner: asyncio.Runner) -> Iterator[tuple[Work, ...]]:
    """Yield all works, through clients of the server at *url*."""
    with (
        redis.Redis.from_url(url) as raw,
        keyleash.Redis.from_url(url, token=token) as guarded,
        redis.Redis.from_pool(keyleash.pool(url, token)) as over_pool,
        opened(in_tasks(url, token), runner) as tasks,
    ):
        yield one_by_one(raw, guarded, over_pool), by_hand(raw), together(raw, guarded), tasks


def one_by_one(raw: redis.Redis, guarded: keyleash.Redis, over_pool: redis.Redis) -> Work:
    """SETs in sequence."""
    return Work(
        "SET in sequence",
        (
            Kind(RAW, lambda: raw.set(FIRST, VALUE), RAW),
            Kind(GUARDED, lambda: guarded.set(FIRST, VALUE), RAW, ONE),
            Kind(OVER_POOL, lambda: over_pool.set(FIRST, VALUE), RAW, ONE),
        ),
    )


def by_hand(raw: redis.Redis) -> Work:
    """A SET through a script written by hand; see `support/by_hand.py`.

    It does not take turns with the guard, because each would evict the other from CPU caches.
    """
    script = raw.script_load(GUARD_SCRIPT)
    words = ("kl_agent-runner_by_hand", "a" * 32, "SET", FIRST, VALUE)
    return Work(
        "SET by hand",
        (
            Kind(RAW, lambda: raw.set(FIRST, VALUE), RAW),
            Kind(BY_HAND, lambda: raw.evalsha(script, 1, FIRST, *words), RAW),
        ),
    )


def together(raw: redis.Redis, guarded: keyleash.Redis) -> Work:
    """Pipelines and batches of SETs."""
    return Work(
        f"{SIZE} SETs in a call",
        (
            Kind(RAW_PIPELINE, lambda: pipeline_of(raw, transaction=False), RAW_PIPELINE),
            Kind(PIPELINE, lambda: pipeline_of(guarded, transaction=False), RAW_PIPELINE, SIXTEEN),
            Kind(RAW_ATOMIC, lambda: pipeline_of(raw, transaction=True), RAW_ATOMIC),
            Kind(
                f"{GUARDED}, pipeline()",
                lambda: pipeline_of(guarded, transaction=True),
                RAW_ATOMIC,
                SIXTEEN,
            ),
            Kind(f"{GUARDED}, batch()", lambda: batch_of(guarded), RAW_ATOMIC, SIXTEEN),
        ),
        commands=SIZE,
    )


@contextlib.asynccontextmanager
async def in_tasks(url: str, token: str) -> AsyncIterator[Work]:
    """SETs of fifty tasks that share a client."""
    async with contextlib.AsyncExitStack() as stack:

        async def kind(name: str, client: Any, **options: Any) -> Kind:
            await stack.enter_async_context(client)
            return Kind(name, lambda: client.set(FIRST, VALUE), RAW_TASKS, **options)

        own = keyleash.asyncio.Redis
        kinds = [
            await kind(RAW_TASKS, redis.asyncio.Redis.from_url(url)),
            await kind(TASKS_OF_ITS, own.from_url(url, token=token), counts=ONE),
            await kind(
                COALESCED, own.from_url(url, token=token, coalesce=True), counts=ONE, coalesced=True
            ),
        ]
        yield Work(f"SETs of {TASKS} tasks", tuple(kinds), tasks=TASKS)


@contextlib.contextmanager
def opened(
    manager: contextlib.AbstractAsyncContextManager[Work], runner: asyncio.Runner
) -> Iterator[Work]:
    """Enter an asynchronous context manager from synchronous code."""
    entered = runner.run(manager.__aenter__())
    try:
        yield entered
    finally:
        runner.run(manager.__aexit__(None, None, None))


def pipeline_of(client: redis.Redis, *, transaction: bool) -> None:
    """Run a pipeline of SETs."""
    with client.pipeline(transaction=transaction) as pipe:
        for key in KEYS:
            pipe.set(key, VALUE)
        pipe.execute()


def batch_of(client: keyleash.Redis) -> None:
    """Run a batch of SETs."""
    with client.batch() as batch:
        for key in KEYS:
            batch.set(key, VALUE)


def bars_of(rows: list[LatencyRow]) -> tuple[Bar, ...]:
    """Return the bars of the measured rows."""
    by_name = {row.kind.name: row for row in rows}
    single, over_pool, pipeline = (by_name[name] for name in (GUARDED, OVER_POOL, PIPELINE))
    bars = (
        Bar("p50 of set", Side.AT_MOST, 1.08, RAW, single.p50_ratio.median, 1.00),
        Bar(f"p50 of set, {OVER_POOL}", Side.AT_MOST, 1.9, RAW, over_pool.p50_ratio.median),
        Bar(
            f"pipeline of {SIZE}, wall time per command",
            Side.AT_MOST,
            1.1,
            RAW,
            pipeline.time_ratio.median,
            0.9,
        ),
    )
    coalesced = by_name[COALESCED].rate_ratio.median
    what = f"set by {TASKS} tasks, coalesced, ops/s"
    return (*bars, Bar(what, Side.AT_LEAST, 4, RAW_TASKS, coalesced, 6))


def draw(section: Section, folder: Path) -> list[Path]:
    """Draw the histograms."""
    from benchmarks.latency_plot import draw_latency  # noqa: PLC0415 - needs matplotlib

    return [draw_latency(section, folder / "latency.svg")]
