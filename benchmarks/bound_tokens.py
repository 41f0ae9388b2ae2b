"""Server CPU per call of bound tokens: by their number, and by their restrictions.

    .venv/bin/python -m benchmarks.bound_tokens --server redis-server [--quick]

One identity has 1, 1,000 and 100,000 tokens, bound to the same job, which call in turn. Then one
token of each kind and two children call, and the ratio to a token without restrictions is printed.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from itertools import islice
from typing import Any

from benchmarks.support.bars import ratios
from benchmarks.support.bench import Bench, Contender
from benchmarks.support.load import Generator
from benchmarks.support.policy import Target, document, load_targets, operator_of, runner
from benchmarks.support.sampling import CONNECTIONS, Case, Curve, Yard, curves_of
from benchmarks.support.servers import choose_cores, choose_servers
from benchmarks.support.variants import CALLS_PER_CONNECTION, guarded_set

import keyleash

JOB, KEY = "42", "agents:jobs:42:state"
CALLING = CONNECTIONS * CALLS_PER_CONNECTION
SIZES, QUICK_SIZES = (1, 1_000, 100_000), (1, 1_000)
BIND = {"job_id": JOB}
BOUND = "bind, allow"
SCOPES: dict[str, dict[str, Any]] = {
    "no restriction": {},
    BOUND: {"bind": BIND, "allow": ["read", "write"]},
    "bind, keys": {"bind": BIND, "keys": [f"agents:jobs:{JOB}:*"]},
    "bind, a cap": {"bind": BIND, "budget": {"requests": 10**12}},
}


def main(argv: list[str] | None = None) -> int:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(prog="bound_tokens", description=__doc__)
    parser.add_argument("--server", default="redis-server", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tokens")
    options = parser.parse_args(argv)
    cores = choose_cores()
    with Generator(cores.client) as generator:
        yard = Yard(choose_servers([options.server])[0], cores, generator, options.quick)
        (numbers,) = by_number(yard)
        fewest = numbers.points[0].values
        for point in numbers.points:
            print(f"{point.size:>7,} bound tokens: {ratios(point.values, fewest)}")
        kinds = by_restriction(yard)
        for curve in kinds:
            values = curve.points[0].values
            print(f"{curve.name:>20}: {ratios(values, kinds[0].points[0].values)}")
    return 0


def policy(more: str = "") -> str:
    """Return the measured policy, whose tokens may be bound."""
    return document([f"{runner('agent')}    token: {{bound: true}}\n{more}"])


def by_number(yard: Yard) -> tuple[Curve, ...]:
    """Measure each number of tokens on a server of its own."""
    with ExitStack() as stack:
        return curves_of(
            [
                in_turn(stack.enter_context(yard.server()), size, yard.plan.requests)
                for size in yard.sizes(SIZES, QUICK_SIZES)
            ]
        )[0]


def in_turn(bench: Bench, size: int, calls: int) -> Case:
    """Load the policy, issue *size* bound tokens, and return SETs by up to 400 of them in turn."""
    (first,) = load_targets(bench.admin, policy(), "agent")
    tokens = operator_of(bench.admin).tokens.issue_many("agent", size, bind=BIND)
    step = max(1, size // CALLING)
    targets = tuple(
        Target(first.guard, item.token) for item in islice(tokens, 0, CALLING * step, step)
    )
    variant = guarded_set("bound tokens call in turn", KEY)
    return Case(variant.name, size, bench, variant, targets, calls)


def by_restriction(yard: Yard) -> tuple[Curve, ...]:
    """Measure tokens with various restrictions, and children, on one server."""
    with yard.server() as bench:
        cases = [
            Case(item.variant.name, 1, bench, item.variant, (item.target,), yard.plan.requests)
            for item in restricted(bench)
        ]
        return curves_of(cases)[0]


def restricted(bench: Bench) -> list[Contender]:
    """Load the policy; return a SET by each kind of token, those without restrictions first."""
    more = "    delegate: {depth: 2}\n"
    (first,) = load_targets(bench.admin, policy(more), "agent")
    issue = operator_of(bench.admin).tokens.issue
    tokens = {name: issue("agent", **scope).token for name, scope in SCOPES.items()}
    made = tokens[BOUND]
    for name in ("a child", "a grandchild"):
        pool = bench.admin.connection_pool
        made = keyleash.Redis(connection_pool=pool, token=made).delegate().token
        tokens[f"{BOUND}: {name}"] = made
    return [
        Contender(guarded_set(name, KEY), Target(first.guard, token))
        for name, token in tokens.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
