"""Tokens of the calling identity: their cost per call, and their memory.

Every size has its own server, because the table of keys grows.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import islice

from benchmarks.growth import loading
from benchmarks.growth.curves import Growth
from benchmarks.growth.loading import document, footprint, guarded_set, load, runner
from benchmarks.growth.sampling import CONNECTIONS, Case, Yard, curves_of
from benchmarks.support.policy import Target, operator_of
from benchmarks.support.variants import CALLS_PER_CONNECTION

GROWS = "tokens issued"
CALLING = CONNECTIONS * CALLS_PER_CONNECTION
"""Number of tokens that call in turn, spread evenly over all."""


def measure(yard: Yard) -> list[Growth]:
    """One identity; calls with many of its tokens, and the memory of all."""
    sizes = yard.sizes((1, 100, 10_000, 100_000), (1, 100, 5_000))
    cases = []
    taken = {}
    with ExitStack() as stack:
        for size in sizes:
            bench = stack.enter_context(yard.server())
            (first,) = load(bench, document([runner("agent")])).targets
            before = footprint(bench.admin)
            tokens = operator_of(bench.admin).tokens.issue_many("agent", size)
            taken[size] = footprint(bench.admin).minus(before).data
            step = max(1, size // CALLING)
            targets = tuple(
                Target(first.guard, item.token) for item in islice(tokens, 0, CALLING * step, step)
            )
            variant = guarded_set("tokens call in turn")
            cases.append(Case(variant.name, size, bench, variant, targets, yard.plan.requests))
        curves, noisy = curves_of(cases)
    # The first token existed before.
    del taken[1]
    return [
        Growth("tokens", GROWS, "µs of server CPU per SET", curves, noisy=noisy),
        loading.growth_of("memory, tokens", GROWS, {"record, listing and control event": taken}),
    ]
