"""Key patterns of the calling identity."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.growth.curves import Growth
from benchmarks.growth.loading import document, guarded_set, identity, load
from benchmarks.growth.sampling import Case, Yard, curves_of
from benchmarks.support.bars import Bar, Side

BAR, AIM = 1.15, 1.05
SIZES = (1, 8, 50, 200)
"""Up to 2 patterns are tried in order; more use a tree, see `compiler/match_tree.py`."""

WRITE, EVERY = "write", "read, write, delete, scan"
CURVES = {
    "the key matches first": (WRITE, 0),
    "the key matches in the middle": (WRITE, 0.5),
    "the key matches last": (WRITE, 1),
    "last, every command granted": (EVERY, 1),
}
"""Granted classes, and position of the matching pattern: 0 first, 1 last."""


def pattern(kind: int, job: str = "{job_id}") -> str:
    """Return the pattern of a kind of key, or a key that it matches."""
    return f"agents:kind{kind:03}:{job}:state"


def measure(yard: Yard) -> list[Growth]:
    """Measure all sizes as identities of one policy on one server."""
    sizes = yard.sizes(SIZES, SIZES[::3])
    of = {(allow, size): f"{allow[:1]}-{size}" for allow in (WRITE, EVERY) for size in sizes}
    policy = document(
        identity(name, map(pattern, range(size)), allow) for (allow, size), name in of.items()
    )
    with yard.server() as bench:
        targets = {target.guard.identity: target for target in load(bench, policy).targets}
        curves, noisy = curves_of(
            [
                Case(
                    curve,
                    size,
                    bench,
                    guarded_set(curve, pattern(round((size - 1) * place), "{job}")),
                    (targets[of[allow, size]],),
                    yard.plan.requests,
                )
                for size in sizes
                for curve, (allow, place) in CURVES.items()
            ]
        )
    most = max(sizes)
    return [
        Growth(
            "patterns",
            "patterns in the identity",
            "µs of server CPU per SET",
            curves,
            tuple(
                Bar(
                    f"server CPU per SET, {most} patterns, {curve.name}",
                    Side.AT_MOST,
                    BAR,
                    "that with 1",
                    curve.growth_to(most).median,
                    AIM,
                )
                for curve in curves
            ),
            _sizes({name: len(targets[name].guard.script) for name in of.values()}),
            noisy,
        )
    ]


def _sizes(scripts: Mapping[str, int]) -> tuple[str, ...]:
    listed = "; ".join(f"{name} {size:,}" for name, size in scripts.items())
    return (f"bytes of the guards, w-… of write alone, r-… of every class: {listed}",)
