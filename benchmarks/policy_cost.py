"""What a policy's size costs a call: 50 patterns and every command, in calls under one pattern.

    PYTHONPATH=loader python benchmarks/policy_cost.py

The bar: server CPU per guarded SET under the large policy is at most 1.3 times that under the
small one, whichever pattern the key matches. Exit status 1 if it is missed on any server. See
benchmarks/README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.bars import Bar, Side
from benchmarks.support.bench import Contender, bench_on
from benchmarks.support.command import Plan, heading, options_of, positive, run
from benchmarks.support.load import Generator
from benchmarks.support.policy import RAISED_LIMITS, Target, load_targets
from benchmarks.support.report import ServerReport, row_of, rows_of
from benchmarks.support.servers import Cores, ServerChoice, choose_cores, version_of
from benchmarks.support.variants import OK, VALUE, Counts, Variant, Way

BAR = 1.3
"""Server CPU of a call under the large policy, in calls under the small one."""

PATTERNS = 50
SMALL, WIDE, LARGE = "one-pattern", "one-pattern-wide", "many-patterns"
EVERY_CLASS = "read, write, delete, scan"


def pattern(kind: int, job: str = "{job_id}") -> str:
    """The pattern of one kind of key, or a key that it matches."""
    return f"agents:kind{kind:02}:{job}:state"


def document() -> str:
    """A policy with the three identities: the same limits, no deny rules, one grant each."""

    def identity(name: str, allow: str, patterns: int, only: str = "") -> str:
        keys = ", ".join(f'"{pattern(kind)}"' for kind in range(patterns))
        return (
            f"  {name}:\n    kind: machine\n"
            f"    grants: [{{allow: [{allow}], keys: [{keys}]{only}}}]\n{RAISED_LIMITS}"
        )

    return (
        "version: 1\nidentities:\n"
        + identity(SMALL, "write", 1, ", only: [set]")
        + identity(WIDE, EVERY_CLASS, 1)
        + identity(LARGE, EVERY_CLASS, PATTERNS)
    )


def variant(name: str, kind: int) -> Variant:
    """A guarded SET of a key of that kind."""
    return Variant(
        name,
        ("SET", pattern(kind, "{job}"), VALUE),
        OK,
        Way.GUARD,
        "1 pattern, SET alone",
        Counts(passed=1, audited=1),
    )


ONE = variant("1 pattern, SET alone", 0)
ONE_WIDE = variant("1 pattern, every command", 0)
MANY = tuple(
    variant(f"{PATTERNS} patterns, every command: {which} matches", kind)
    for which, kind in (("first", 0), ("middle", PATTERNS // 2), ("last", PATTERNS - 1))
)
VARIANTS = (ONE, ONE_WIDE, *MANY)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and say by the exit status whether the bar is met."""
    parser = options_of("policy_cost", __doc__, rounds=15, requests=10_000, of="calls per run")
    parser.add_argument("--connections", type=positive, default=50, help="default: %(default)s")
    options = parser.parse_args(argv)
    plan = Plan(options.rounds, options.requests, (options.connections,), options.protocol)
    cores = choose_cores()
    with Generator(cores.client) as generator:
        return run("policy_cost", options, lambda choice: measure(choice, plan, cores, generator))


def measure(choice: ServerChoice, plan: Plan, cores: Cores, generator: Generator) -> ServerReport:
    """Start one server, run every round on it, and put the samples together."""
    with bench_on(choice, plan, cores, generator) as bench:
        small, wide, large = load_targets(bench.admin, document(), SMALL, WIDE, LARGE)
        contenders = [
            Contender(ONE, small),
            Contender(ONE_WIDE, wide),
            *(Contender(one, large) for one in MANY),
        ]
        (many,) = plan.connections
        bench.warm_up(contenders)
        rows = rows_of(bench.rounds(contenders), VARIANTS)
        version = version_of(bench.admin)
        return ServerReport(
            heading=heading(version, choice.name, plan, cores, "calls"),
            version=version,
            unit="call",
            whole_process=bench.clock.whole_process,
            rows=rows,
            bars=tuple(
                Bar(
                    f"server CPU per SET, {one.name}",
                    Side.AT_MOST,
                    BAR,
                    ONE.name,
                    row_of(rows, one, many).cost_ratio.median,
                )
                for one in MANY
            ),
            remarks=tuple(map(_size, (small, wide, large))),
        )


def _size(target: Target) -> str:
    guard = target.guard
    patterns = sum(len(grant.keys) for grant in guard.plan.identity.grants)
    return (
        f"{guard.identity}: {patterns} patterns, {len(guard.plan.assigned)} commands,"
        f" a guard of {len(guard.script):,} bytes"
    )


if __name__ == "__main__":
    sys.exit(main())
