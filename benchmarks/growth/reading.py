"""Throughput of reading an audit stream with filters."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict

import redis
from benchmarks.growth.curves import Curve, Growth, Point
from benchmarks.growth.loading import document, guarded_set, identity, load
from benchmarks.growth.sampling import CONNECTIONS, Yard
from benchmarks.support.bars import Bar, Side
from benchmarks.support.bench import Bench, Contender

from keyleash.audit import Query, read_events
from keyleash.policy.patterns import parse_pattern
from keyleash.store.connect import connect
from keyleash.store.keyspace import Keyspace
from keyleash.store.store import Store

GROWS = "events in the audit stream"
READ_BAR_PER_S = 60_000.0
BLOCKED_BAR_MS = 5.0
ROUNDS = 3
CHUNK = 20_000
JOBS = 50_000
REQUESTS = 1_000
KEYS = ("agents:jobs:{job_id}:state",)

_FILL = """
local event = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][2]
local at = {}
for i = 1, #event, 2 do at[event[i]] = i + 1 end
for n = ARGV[1], ARGV[2] do
  event[at.seq] = string.format('%.0f', n)
  event[at.SET] = string.format('agents:jobs:%012.0f:state', n % ARGV[3])
  event[at.correlation] = string.format('request-%.0f', n % ARGV[4])
  redis.call('XADD', KEYS[2], string.format('%.0f-0', n), unpack(event))
end
"""
"""Appends copies of the guard's event, with different numbers, keys and correlation ids."""

QUERIES = {
    "by correlation id: 1 in 1,000": Query(correlation="request-7"),
    "by pattern: 1 in 10": Query(pattern=parse_pattern("agents:jobs:{job_id}7:state")),
}


def measure(yard: Yard) -> list[Growth]:
    """Read all events of a stream per size, newest first, as `audit log` does."""
    sizes = yard.sizes((100_000, 1_000_000), (1_000, 20_000))
    taken: dict[tuple[str, int], list[float]] = defaultdict(list)
    with yard.server() as bench:
        _fill(bench, sizes)
        bench.admin.config_set("slowlog-log-slower-than", 100)
        bench.admin.slowlog_reset()
        with connect(bench.server.url) as client:
            for _ in range(ROUNDS):
                for size in sizes:
                    for name, query in QUERIES.items():
                        taken[name, size].append(size / _read_s(client, size, query))
        longest_ms = max((item["duration"] for item in bench.admin.slowlog_get()), default=0) / 1e3
    curves = tuple(
        Curve(name, tuple(Point(size, tuple(taken[name, size])) for size in sizes))
        for name in QUERIES
    )
    return [_growth(curves, sizes[-1], longest_ms)]


def _fill(bench: Bench, sizes: tuple[int, ...]) -> None:
    """Fill a stream per size with copies of an event of the guard."""
    loaded = load(bench, document([identity("agent-written", KEYS)]))
    target = loaded.targets[0]
    bench.sample(Contender(guarded_set("guarded SET"), target), CONNECTIONS, REQUESTS)
    script = bench.admin.register_script(_FILL)
    for size in sizes:
        streams = [Keyspace().audit(name) for name in (target.guard.identity, _stream_name(size))]
        for first in range(1, size + 1, CHUNK):
            last = min(first + CHUNK - 1, size)
            script(keys=streams, args=[first, last, JOBS, REQUESTS])


def _read_s(client: redis.Redis, size: int, query: Query) -> float:
    begun_s = time.perf_counter()
    for _ in read_events(Store(client, Keyspace()), [_stream_name(size)], query, newest_first=True):
        pass
    return time.perf_counter() - begun_s


def _stream_name(size: int) -> str:
    return f"agent-{size}"


def _growth(curves: tuple[Curve, ...], most: int, longest_ms: float) -> Growth:
    bars = [
        Bar(
            f"`audit log` over {most:,} events, {curve.name}",
            Side.AT_LEAST,
            READ_BAR_PER_S,
            "1 event/s",
            statistics.median(curve.at(most).values),
        )
        for curve in curves
    ]
    blocked = "longest command of reading"
    bars.append(Bar(blocked, Side.AT_MOST, BLOCKED_BAR_MS, "1 ms", longest_ms))
    return Growth("audit log", GROWS, "events a second", curves, bars=tuple(bars))
