"""What a guarded call costs the server, in raw calls.

    PYTHONPATH=loader python benchmarks/guard_cost.py

The bar: server CPU per guarded SET at 50 clients is at most 2.3 times that of a raw SET.
Exit status 1 if it is missed on any server. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import redis

import keyleash
from keyleash.errors import KeyleashError
from keyleash.server import EmbeddedServer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.load import Generator, Load, LoadError
from benchmarks.support.measure import (
    MiscountError,
    Sample,
    alternated_p50_us,
    cpu_clock,
    ratios,
    spread_of,
    take_sample,
)
from benchmarks.support.policy import StructureError, Target, load_target
from benchmarks.support.report import (
    ClientRow,
    ServerReport,
    as_plain_data,
    bar_line,
    rows_of,
    table,
)
from benchmarks.support.servers import (
    Cores,
    ServerChoice,
    choose_cores,
    choose_servers,
    pinned,
    running,
    version_of,
)
from benchmarks.support.variants import (
    GUARDED_SET,
    KEY,
    SET_ONLY_SCRIPT,
    VALUE,
    VARIANTS,
    Variant,
    exchanges,
)

CLIENT_CALLS = 2_000
"""Of each kind in a round, through redis-py."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: Each round runs every variant once at each number of connections.
        requests: Calls per run.
        connections: Numbers of connections, the larger first.
        protocol: RESP version, 2 or 3, of raw and guarded calls alike.
    """

    rounds: int
    requests: int
    connections: tuple[int, ...]
    protocol: int


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and say by the exit status whether the bar is met."""
    options = _parser().parse_args(argv)
    plan = Plan(
        rounds=options.rounds,
        requests=options.requests,
        connections=tuple(dict.fromkeys((options.connections, 1))),
        protocol=options.protocol,
    )
    try:
        choices = choose_servers(options.server)
    except FileNotFoundError as error:
        print(f"guard_cost: {error}", file=sys.stderr)
        return 2
    cores = choose_cores()
    reports = []
    try:
        with Generator(cores.client) as generator:
            for choice in choices:
                reports.append(measure(choice, plan, cores, generator))
                if not options.json:
                    print(_heading(reports[-1], plan, cores), table(reports[-1]), "", sep="\n")
    except (LoadError, MiscountError, StructureError, KeyleashError) as error:
        print(f"guard_cost: {error}", file=sys.stderr)
        return 2
    if options.json:
        plain = [as_plain_data(report) for report in reports]
        print(json.dumps(plain, indent=2, ensure_ascii=False))
    else:
        print(*(bar_line(report) for report in reports), sep="\n")
    return 0 if options.no_bar or all(report.passes for report in reports) else 1


def measure(choice: ServerChoice, plan: Plan, cores: Cores, generator: Generator) -> ServerReport:
    """Start one server, run every round on it, and put the samples together."""
    with (
        running(choice, cores.server) as server,
        pinned(cores.client),
        redis.Redis.from_url(server.url) as admin,
    ):
        clock = cpu_clock(admin)
        target = load_target(admin)
        set_only = str(admin.script_load(SET_ONLY_SCRIPT))

        def load(variant: Variant, connections: int, requests: int) -> Load:
            calls = exchanges(
                variant,
                target,
                set_only=set_only,
                protocol=plan.protocol,
                connections=connections,
            )
            return Load(server.port, plan.protocol, requests, calls)

        # With a full audit stream, since trimming is part of what an event costs.
        retain = target.guard.plan.identity.audit.retain
        for variant in VARIANTS:
            warm_up = retain * 11 // 10 if variant is GUARDED_SET else plan.requests
            full = load(variant, plan.connections[0], warm_up)
            take_sample(generator, clock, target, variant, full)

        samples: dict[tuple[str, int], list[Sample]] = defaultdict(list)
        for number in range(plan.rounds):
            for connections in plan.connections:
                # There and back again, so that a drift favours nobody.
                for variant in VARIANTS if number % 2 == 0 else reversed(VARIANTS):
                    run = load(variant, connections, plan.requests)
                    sample = take_sample(generator, clock, target, variant, run)
                    samples[variant.name, connections].append(sample)
        return ServerReport(
            name=choice.name,
            version=version_of(admin),
            whole_process=clock.whole_process,
            many=plan.connections[0],
            rows=rows_of(samples),
            client=measure_client(server, target, plan.rounds),
        )


def measure_client(server: EmbeddedServer, target: Target, rounds: int) -> ClientRow:
    """Time `set` through redis-py and through the guarded client, call by call in turn."""
    key = KEY.format(job="0" * 12)
    with (
        redis.Redis.from_url(server.url) as raw,
        keyleash.Redis.from_url(server.url, token=target.token) as guarded,
    ):
        times = [
            alternated_p50_us(
                CLIENT_CALLS, lambda: raw.set(key, VALUE), lambda: guarded.set(key, VALUE)
            )
            for _ in range(rounds)
        ]
    raw_us, guarded_us = zip(*times, strict=True)
    return ClientRow(spread_of(raw_us), spread_of(guarded_us), ratios(guarded_us, raw_us))


def _heading(report: ServerReport, plan: Plan, cores: Cores) -> str:
    where = (
        "not pinned"
        if cores.server is None
        else f"server on core {cores.server}, clients on core {cores.client}"
    )
    return (
        f"{report.version} ({report.name}); {plan.rounds} rounds of {plan.requests} calls,"
        f" RESP{plan.protocol}; {where}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="guard_cost", description="What a guarded call costs the server, in raw calls."
    )
    parser.add_argument(
        "--server",
        nargs="+",
        default=[],
        metavar="NAME",
        help="embedded, redis-server, valkey-server or a path; default: all that are found",
    )
    parser.add_argument("--rounds", type=_positive, default=9, help="default: %(default)s")
    parser.add_argument("--connections", type=_positive, default=50, help="default: %(default)s")
    parser.add_argument(
        "--requests", type=_positive, default=20_000, help="per run; default: %(default)s"
    )
    parser.add_argument(
        "--protocol",
        type=int,
        choices=(2, 3),
        default=3,
        help="RESP version; redis-py speaks 3; default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--no-bar", action="store_true", help="exit with 0 whether the bar is met or not"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
