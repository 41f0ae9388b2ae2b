"""Rates and budgets of the calling identity."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.growth.curves import Growth
from benchmarks.growth.loading import document, guarded_set, identity, load
from benchmarks.growth.sampling import Case, Yard, curves_of
from benchmarks.support.bench import Bench
from benchmarks.support.variants import (
    CALLS_PER_CONNECTION,
    VALUE,
    VALUE_BYTES,
    Counts,
    Variant,
    Way,
)

KEYS = ("agents:jobs:{job_id}:state",)
LIST_KEY = "agents:lists:{job}:state"
LIST_KEYS = ("agents:lists:{job_id}:state",)
GCRA = "{limit: 6000000/minute, burst: 1000000}"
RING = "100000/second"
BUDGET = "1000000000000000/day"
BERLIN = "{limit: 1000000000000000/day, timezone: Europe/Berlin}"
IN_ORDER = (
    ("budget", "requests", BUDGET),
    ("rate", "writes", GCRA),
    ("rate", "requests", RING),
    ("budget", "writes", BERLIN),
    ("rate", "reads", GCRA),
    ("budget", "reads", BUDGET),
    ("rate", "deletes", GCRA),
    ("budget", "deletes", BERLIN),
)
"""A size of n has the first n limits: three kinds, calendar windows in two time zones."""

SET = guarded_set("SET, which the first four count")
MOVE = Variant(
    "LMOVE, which all count",
    ("LMOVE", LIST_KEY, LIST_KEY, "LEFT", "RIGHT"),
    f"${VALUE_BYTES}\r\n{VALUE}\r\n",
    Way.GUARD,
    "LMOVE",
    Counts(passed=1, audited=1),
)
"""LMOVE reads and deletes at one end and writes at the other."""


def measure(yard: Yard) -> list[Growth]:
    """Measure all sizes as identities of one policy on one server."""
    sizes = yard.sizes((0, 1, 2, 4, 8), (0, 1, 8))
    policy = document(
        identity(f"agent-{size}", (*KEYS, *LIST_KEYS), "read, write, delete", limits=limits(size))
        for size in sizes
    )
    with yard.server() as bench:
        make_lists(bench)
        targets = load(bench, policy).targets
        curves, noisy = curves_of(
            [
                Case(
                    variant.name, size, bench, counted(variant, size), (target,), yard.plan.requests
                )
                for variant in (SET, MOVE)
                for size, target in zip(sizes, targets, strict=True)
            ]
        )
    each = "; ".join(f"{curve.name} {curve.per_unit:.2f}" for curve in curves)
    return [
        Growth(
            "limits",
            "limits of the identity",
            "µs of server CPU per call",
            curves,
            remarks=(f"µs for one more limit: {each}",),
            noisy=noisy,
        )
    ]


def limits(count: int) -> str:
    """Return the first *count* limits in YAML."""
    kinds: dict[str, list[str]] = {}
    for kind, counter, value in IN_ORDER[:count]:
        kinds.setdefault(kind, []).append(f"{counter}: {value}")
    return "".join(f"    {kind}: {{{', '.join(entries)}}}\n" for kind, entries in kinds.items())


def counted(variant: Variant, limits: int) -> Variant:
    """Return the variant with its counts: without limits there is no budget of requests."""
    return variant if limits else replace(variant, counts=Counts(audited=1))


def make_lists(bench: Bench) -> None:
    """Create the lists, each with one value, which do not change by a move."""
    for number in range(CALLS_PER_CONNECTION):
        bench.admin.rpush(LIST_KEY.format(job=f"{number:012d}"), VALUE)
