"""What a guarded call costs the server, in raw calls.

    PYTHONPATH=loader python benchmarks/guard_cost.py

The bar: server CPU per guarded SET at 50 clients is at most 2.3 times that of a raw SET.
Exit status 1 if it is missed on any server. See benchmarks/README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.bars import Bar, Side
from benchmarks.support.bench import Contender, bench_on
from benchmarks.support.clients import set_p50
from benchmarks.support.command import Plan, heading, options_of, positive, run
from benchmarks.support.load import Generator
from benchmarks.support.policy import load_target
from benchmarks.support.report import ServerReport, row_of, rows_of
from benchmarks.support.servers import Cores, ServerChoice, choose_cores, version_of
from benchmarks.support.variants import (
    KEY,
    KEY_OF_ANOTHER,
    OK,
    THE_VALUE,
    VALUE,
    Counts,
    Variant,
    Way,
)

BAR = 2.3
"""Server CPU of a guarded SET, in raw SETs."""

CLIENT_CALLS = 2_000
"""Of each kind in a round, through redis-py."""

SET_ONLY_SCRIPT = "return redis.call('SET', KEYS[1], ARGV[1])"
"""The least that a script which runs a SET can do."""

RAW_SET = Variant("raw SET", ("SET", KEY, VALUE), OK, Way.RAW, "raw SET")
GUARDED_SET = Variant(
    "guarded SET", ("SET", KEY, VALUE), OK, Way.GUARD, "raw SET", Counts(passed=1, audited=1)
)
SET_ONLY = Variant(
    "EVALSHA that only SETs", ("EVALSHA", "{script}", "1", KEY, VALUE), OK, Way.RAW, "raw SET"
)
REFUSED_SET = Variant(
    "guarded SET, refused",
    ("SET", KEY_OF_ANOTHER, VALUE),
    f"-LEASH KEY_NOT_GRANTED key={KEY_OF_ANOTHER}\r\n",
    Way.GUARD,
    "raw SET",
    Counts(denied=1),
)
RAW_GET = Variant("raw GET", ("GET", KEY), THE_VALUE, Way.RAW, "raw GET")
GUARDED_GET = Variant(
    "guarded GET", ("GET", KEY), THE_VALUE, Way.GUARD, "raw GET", Counts(passed=1)
)

VARIANTS = (RAW_SET, GUARDED_SET, SET_ONLY, REFUSED_SET, RAW_GET, GUARDED_GET)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and say by the exit status whether the bar is met."""
    parser = options_of("guard_cost", __doc__, rounds=9, requests=20_000, of="calls per run")
    parser.add_argument("--connections", type=positive, default=50, help="default: %(default)s")
    options = parser.parse_args(argv)
    connections = tuple(dict.fromkeys((options.connections, 1)))
    plan = Plan(options.rounds, options.requests, connections, options.protocol)
    cores = choose_cores()
    with Generator(cores.client) as generator:
        return run("guard_cost", options, lambda choice: measure(choice, plan, cores, generator))


def measure(choice: ServerChoice, plan: Plan, cores: Cores, generator: Generator) -> ServerReport:
    """Start one server, run every round on it, and put the samples together."""
    with bench_on(choice, plan, cores, generator, SET_ONLY_SCRIPT) as bench:
        target = load_target(bench.admin)
        contenders = [Contender(variant, target) for variant in VARIANTS]
        many = plan.connections[0]
        bench.warm_up(contenders)
        rows = rows_of(bench.rounds(contenders), VARIANTS)
        client = set_p50(
            bench.server.url,
            bench.admin,
            target,
            calls=CLIENT_CALLS,
            rounds=plan.rounds,
            protocol=plan.protocol,
        )
        version = version_of(bench.admin)
        cost = row_of(rows, GUARDED_SET, many).cost_ratio.median
        return ServerReport(
            heading=heading(version, choice.name, plan, cores, "calls"),
            version=version,
            unit="call",
            whole_process=bench.clock.whole_process,
            rows=rows,
            bars=(
                Bar(
                    f"server CPU per guarded SET at {many} clients",
                    Side.AT_MOST,
                    BAR,
                    "raw SET",
                    cost,
                ),
            ),
            remarks=(
                f"through redis-py, one call at a time: set p50 {client.raw.median:.0f} µs, guarded"
                f" {client.guarded.median:.0f} µs; ratio {client.ratio}",
            ),
        )


if __name__ == "__main__":
    sys.exit(main())
