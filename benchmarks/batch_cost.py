"""What a batch of 16 SETs in one guarded call costs the server, in raw pipelines of 16 SETs.

    PYTHONPATH=loader python benchmarks/batch_cost.py

The bar: at 50 clients and at 1, batches make at least 0.40 times the SETs per second that raw
pipelines make. Exit status 1 if it is missed on any server. See benchmarks/README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.bars import Bar, Side
from benchmarks.support.bench import Contender, bench_on
from benchmarks.support.command import Plan, heading, options_of, positive, run
from benchmarks.support.load import Generator
from benchmarks.support.policy import load_target
from benchmarks.support.report import ServerReport, row_of, rows_of
from benchmarks.support.servers import Cores, ServerChoice, choose_cores, version_of
from benchmarks.support.variants import KEY, OK, VALUE, Counts, Variant, Way

BAR = 0.40
"""SETs per second in batches, by those in raw pipelines."""

SIZE = 16
"""SETs in a pipeline, and in a batch."""

SETS_ONLY_SCRIPT = """
local set, replies = redis.call, {}
for i = 1, #KEYS do replies[i] = set('SET', KEYS[i], ARGV[4 + 4 * i]) end
return replies
"""
"""The least that a script can do with the words of a batch: four of its own, then for each SET
their number, `SET`, key and value."""

_SET = ("SET", KEY, VALUE)
_PIPELINE = f"raw pipeline of {SIZE} SETs"

RAW_PIPELINE = Variant(_PIPELINE, _SET, OK, Way.RAW, _PIPELINE, commands=SIZE)
GUARDED_BATCH = Variant(
    f"guarded batch of {SIZE} SETs",
    _SET,
    OK,
    Way.BATCH,
    _PIPELINE,
    Counts(passed=SIZE, audited=1),
    SIZE,
)
SETS_ONLY = Variant(
    f"EVALSHA that only SETs {SIZE} keys", _SET, OK, Way.BATCH_OF_SCRIPT, _PIPELINE, commands=SIZE
)

VARIANTS = (RAW_PIPELINE, GUARDED_BATCH, SETS_ONLY)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and say by the exit status whether the bar is met."""
    parser = options_of(
        "batch_cost", __doc__, rounds=15, requests=2_000, of=f"pipelines or batches of {SIZE} a run"
    )
    parser.add_argument("--connections", type=positive, default=50, help="default: %(default)s")
    options = parser.parse_args(argv)
    connections = tuple(dict.fromkeys((options.connections, 1)))
    plan = Plan(options.rounds, options.requests, connections, options.protocol)
    cores = choose_cores()
    with Generator(cores.client) as generator:
        return run("batch_cost", options, lambda choice: measure(choice, plan, cores, generator))


def measure(choice: ServerChoice, plan: Plan, cores: Cores, generator: Generator) -> ServerReport:
    """Start one server, run every round on it, and put the samples together."""
    with bench_on(choice, plan, cores, generator, SETS_ONLY_SCRIPT) as bench:
        target = load_target(bench.admin)
        contenders = [Contender(variant, target) for variant in VARIANTS]
        bench.warm_up(contenders)
        rows = rows_of(bench.rounds(contenders), VARIANTS)
        version = version_of(bench.admin)
        return ServerReport(
            heading=heading(version, choice.name, plan, cores, f"pipelines or batches of {SIZE}"),
            version=version,
            unit="SET",
            whole_process=bench.clock.whole_process,
            rows=rows,
            bars=tuple(
                Bar(
                    f"SETs per s in batches of {SIZE} at {connections}"
                    f" client{'s' if connections > 1 else ''}",
                    Side.AT_LEAST,
                    BAR,
                    f"those in raw pipelines of {SIZE}",
                    row_of(rows, GUARDED_BATCH, connections).rate_ratio.median,
                )
                for connections in plan.connections
            ),
        )


if __name__ == "__main__":
    sys.exit(main())
