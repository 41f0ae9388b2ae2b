"""JSON and searches under a guard, next to the same calls raw, on `redis-server` with modules.

    python -m benchmarks.search [--rounds 5] [--documents 50000]

Needs the extra `stack`. All take turns on one connection each; a value is the median latency of a
guarded call, divided by that of the raw one in the same round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from array import array
from functools import partial
from typing import Any

import redis
from benchmarks.support.bars import Bar, Side, bar_table, ratios
from benchmarks.support.clients import in_turn
from benchmarks.support.policy import operator_of
from benchmarks.support.servers import version_of

import keyleash
from keyleash.addons.servers import EmbeddedServer
from keyleash.addons.servers.embedded import stack_server

CALLS = 300
DIMENSIONS = 128
POLICY = """\
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read], keys: ["doc:*"], indexes: [docs]}]
    budget: {requests: 1000000000000/day}
"""
SCHEMA = (
    f"ON HASH PREFIX 1 doc: SCHEMA tag TAG v VECTOR FLAT 6 TYPE FLOAT32 DIM {DIMENSIONS}"
    " DISTANCE_METRIC L2"
).split()
VECTOR = array("f", (place / DIMENSIONS for place in range(DIMENSIONS))).tobytes()
NEAREST = ("FT.SEARCH", "docs", "*=>[KNN 10 @v $q]", "PARAMS", 2, "q", VECTOR,
           "RETURN", 1, "tag", "DIALECT", 2)  # fmt: skip
TAGGED = ("FT.SEARCH", "docs", "@tag:{t7}", "NOCONTENT", "LIMIT", 0, 10, "DIALECT", 2)
BARS: dict[str, tuple[float, tuple[Any, ...]]] = {
    "nearest 10 by vector": (1.25, NEAREST),
    "10 by tag": (2.2, TAGGED),
    "JSON.GET of a path": (2.2, ("JSON.GET", "doc:json", "$.a")),
    "GET": (2.2, ("GET", "doc:text")),
}


def main(argv: list[str] | None = None) -> int:
    """Print the bars; return 1 if one is missed."""
    parser = argparse.ArgumentParser(prog="search", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=50_000)
    options = parser.parse_args(argv)
    binary, settings = stack_server()
    with EmbeddedServer(binary=binary, settings=settings) as server:
        admin = redis.Redis.from_url(server.url, protocol=2)
        fill(admin, options.documents)
        operator = operator_of(admin)
        operator.load(keyleash.Policy(POLICY))
        token = operator.tokens.issue("agent").token
        guarded = keyleash.Redis.from_url(server.url, token=token, protocol=2)
        rounds = [latencies(admin, guarded) for _ in range(options.rounds)]
        version = version_of(admin)
    bars = []
    for name, (bound, _) in BARS.items():
        raw, under = zip(*(values[name] for values in rounds), strict=True)
        print(
            f"  {name:<22} raw {statistics.median(raw):6.0f} µs,"
            f" guarded {statistics.median(under):6.0f} µs"
        )
        spread = ratios(under, raw)
        bars.append((version, Bar(name, Side.AT_MOST, bound, "raw", spread.median), False))
    print(bar_table(bars))
    return 0 if all(item.met for _, item, _ in bars) else 1


def fill(admin: redis.Redis, documents: int) -> None:
    """Make the documents and their index."""
    admin.execute_command("FT.CREATE", "docs", *SCHEMA)
    draw = random.Random(1).random
    pipeline = admin.pipeline(transaction=False)
    for number in range(documents):
        vector = array("f", (draw() for _ in range(DIMENSIONS))).tobytes()
        pipeline.hset(f"doc:{number}", mapping={"tag": f"t{number % 1000}", "v": vector})
        if number % 1000 == 999:
            pipeline.execute()
    pipeline.execute()
    admin.execute_command("JSON.SET", "doc:json", "$", '{"a": 1, "b": [1, 2, 3]}')
    admin.set("doc:text", "value")


def latencies(raw: Any, guarded: Any) -> dict[str, tuple[float, float]]:
    """Return the median of each call in µs, raw and guarded."""
    values = {}
    for name, (_, words) in BARS.items():
        calls = [partial(client.execute_command, *words) for client in (raw, guarded)]
        runs = in_turn(calls, CALLS)
        raw_us, guarded_us = (statistics.median(run.taken_ns) / 1000 for run in runs)
        values[name] = raw_us, guarded_us
    return values


if __name__ == "__main__":
    sys.exit(main())
