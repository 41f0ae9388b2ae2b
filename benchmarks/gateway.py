"""A gateway next to a hop that does nothing, to `keyleash.Redis`, and to calls of its guard.

    python -m benchmarks.gateway [--server NAME] [--rounds 5] [--processes 1]

All take turns in one run. Latency is that of redis-py, one call at a time; throughput is that of
one load generator, which calls the guard itself, or sends plain commands to the gateway.
`--processes 2` runs two gateways on one port (`SO_REUSEPORT`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import redis
from benchmarks.support.bars import Bar, Side, bar_table, ratios
from benchmarks.support.clients import in_turn
from benchmarks.support.load import Generator, Load, User
from benchmarks.support.policy import IDENTITY, Target, load_target
from benchmarks.support.servers import EMBEDDED, choose_servers, running, version_of
from benchmarks.support.variants import KEY, OK, VALUE, Variant, Way, exchanges

import keyleash

CALLS = 2_000
REQUESTS = 40_000
CLIENTS = 50
PIPELINE = 16
FIRST = KEY.format(job=f"{0:012d}")
SET = ("SET", KEY, VALUE)
PLAIN = Variant("gateway", SET, OK, Way.RAW, "gateway")
GUARD = Variant("EVALSHA", SET, OK, Way.GUARD, "EVALSHA")
BATCH = Variant("EVALSHA", SET, OK, Way.BATCH, "EVALSHA", commands=PIPELINE)


def main(argv: list[str] | None = None) -> int:
    """Print the figures and the bars; return 1 if one is missed."""
    parser = argparse.ArgumentParser(prog="gateway", description=__doc__)
    parser.add_argument("--server", default=EMBEDDED, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(argv)
    (choice,) = choose_servers([options.server])
    with (
        running(choice, None) as server,
        redis.Redis.from_url(server.url) as admin,
        hop_to(server.port) as hop,
        gateways_to(server.url, options.processes) as gateway,
        Generator(None) as generator,
    ):
        print(version_of(admin))
        target = load_target(admin)
        latencies = [latencies_of(target, server.url, hop, gateway) for _ in range(options.rounds)]
        rates = [rates_of(target, generator, server.port, gateway) for _ in range(options.rounds)]
    bars = [
        bar(
            "p50 of SET", Side.AT_MOST, 1.6, "a hop that does nothing", latencies, "gateway", "hop"
        ),
        bar("p50 of SET", Side.AT_MOST, 2.5, "keyleash.Redis", latencies, "gateway", "keyleash"),
        bar(f"SET/s, {CLIENTS} clients", Side.AT_LEAST, 0.65, "EVALSHA", rates, "gateway", "guard"),
        bar("SET/s, pipelines of 16", Side.AT_LEAST, 0.8, "EVALSHA", rates, "pipeline", "batch"),
    ]
    for name, unit in (("raw", "µs"), ("hop", "µs"), ("keyleash", "µs"), ("gateway", "µs")):
        print(f"  p50 of SET, {name:<10} {median(latencies, name):8.0f} {unit}")
    for name in ("guard", "gateway", "batch", "pipeline"):
        print(f"  SET/s, {CLIENTS} clients, {name:<10} {median(rates, name):8.0f}")
    print(bar_table((choice.name, item, False) for item in bars))
    return 0 if all(item.met for item in bars) else 1


def median(rounds: list[dict[str, float]], name: str) -> float:
    """Return the median of a measured value over rounds."""
    return statistics.median(values[name] for values in rounds)


def bar(
    measured: str,
    side: Side,
    bound: float,
    unit: str,
    rounds: list[dict[str, float]],
    name: str,
    baseline: str,
) -> Bar:
    """Return a bar of the ratio of two values."""
    spread = ratios([values[name] for values in rounds], [values[baseline] for values in rounds])
    return Bar(measured, side, bound, unit, spread.median)


def latencies_of(target: Target, url: str, hop: int, gateway: int) -> dict[str, float]:
    """Return the medians of SET, in µs, one call at a time and all clients in turn."""
    options: dict[str, Any] = {"protocol": 2}
    through = f"redis://{IDENTITY}:{target.token}@127.0.0.1:{gateway}"
    clients: dict[str, Any] = {
        "raw": redis.Redis.from_url(url, **options),
        "hop": redis.Redis(port=hop, **options),
        "keyleash": keyleash.Redis.from_url(url, token=target.token, **options),
        "gateway": redis.Redis.from_url(through, **options),
    }
    runs = in_turn([partial(client.set, FIRST, VALUE) for client in clients.values()], CALLS)
    for client in clients.values():
        client.close()
    return {
        name: statistics.median(run.taken_ns) / 1000
        for name, run in zip(clients, runs, strict=True)
    }


def rates_of(target: Target, generator: Generator, port: int, gateway: int) -> dict[str, float]:
    """Return commands per second, by the guard's callers and through the gateway."""
    user = User(IDENTITY, target.token)
    rates = {}
    for name, variant, at, of in (
        ("guard", GUARD, port, None),
        ("gateway", PLAIN, gateway, user),
        ("batch", BATCH, port, None),
        ("pipeline", PLAIN.piped(PIPELINE), gateway, user),
    ):
        # The bucket of writes holds a million, and gets 100,000 each second.
        calls = REQUESTS // (1 if variant.commands == 1 else 8)
        load = Load(at, calls, exchanges(variant, target, connections=CLIENTS), user=of)
        generator.prepare(load)
        rates[name] = calls * variant.commands / generator.run().wall_s
    return rates


@contextlib.contextmanager
def gateways_to(url: str, processes: int) -> Iterator[int]:
    """Run gateways on one port, which is yielded."""
    options = ["--share-port", "--admin", "127.0.0.1:0", "--listen"]
    command = [sys.executable, "-m", "keyleash", "gateway", *options]
    environment = {**os.environ, "KEYLEASH_URL": url}
    running: list[subprocess.Popen[str]] = []
    port = 0
    try:
        for _ in range(processes):
            process = subprocess.Popen(
                [*command, f"127.0.0.1:{port}"],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            running.append(process)
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            port = int(process.stdout.readline().rpartition(":")[2])
        yield port
    finally:
        for process in running:
            process.terminate()
            process.communicate()


@contextlib.contextmanager
def hop_to(port: int) -> Iterator[int]:
    """Run a hop in a process of its own, which passes bytes on; yield its port."""
    context = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.support.hop", str(port)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert context.stdout is not None  # noqa: S101 - it is a pipe
        yield int(context.stdout.readline())
    finally:
        context.kill()
        context.communicate()


if __name__ == "__main__":
    sys.exit(main())
