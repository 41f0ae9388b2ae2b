"""Cost of a guarded SET in each tier, called by a user of that tier.

Two servers with the same policy share one core and take turns. The command line sets them up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.support.bars import Bar, Side, ratios, spread_of
from benchmarks.support.bench import Bench
from benchmarks.support.load import Generator, User
from benchmarks.support.policy import IDENTITY, Target, load_targets, raised_document
from benchmarks.support.sampling import Case, Yard, curves_of
from benchmarks.support.section import Figure, Section, Setting, joined
from benchmarks.support.servers import ServerChoice, version_of
from benchmarks.support.variants import guarded_set

NAME = "tiers"
COOPERATIVE, FENCED = "cooperative", "fenced"
BARS = {FENCED: 1.08}
CALLS = 8_000


def measure(setting: Setting) -> Section:
    """Measure every server in turn."""
    with Generator(setting.cores.client) as generator:
        return joined(
            NAME,
            [
                _measure_on(choice, Yard(choice, setting.cores, generator, setting.quick))
                for choice in setting.servers
            ],
        )


def _measure_on(choice: ServerChoice, yard: Yard) -> Section:
    calls = yard.plan.requests if yard.quick else CALLS
    with ExitStack() as stack:
        cases = []
        for tier in (COOPERATIVE, FENCED):
            bench = stack.enter_context(yard.server())
            cases.append(Case(tier, 1, bench, guarded_set(tier), (target_of(bench, tier),), calls))
        curves, noisy = curves_of(cases)
        version = version_of(cases[0].bench.admin)
    costs = {curve.name: curve.points[0].values for curve in curves}
    spreads = {tier: ratios(values, costs[COOPERATIVE]) for tier, values in costs.items()}
    lines = [f"{version} ({choice.name}): guarded SET, 50 clients, server CPU"]
    lines += [
        f"  {tier:<12} {spread_of(values).median:6.2f} µs  {spreads[tier]} × {COOPERATIVE}"
        for tier, values in costs.items()
    ]
    return Section(
        NAME,
        "\n".join(lines),
        tuple(
            figure
            for tier, values in costs.items()
            for figure in (
                Figure(tier, "µs of server CPU", spread_of(values), version),
                Figure(tier, f"× {COOPERATIVE}", spreads[tier], version),
            )
        ),
        tuple(
            (
                version,
                Bar(
                    f"guarded SET, {tier}, server CPU at 50 clients",
                    Side.AT_MOST,
                    bound,
                    COOPERATIVE,
                    spreads[tier].median,
                ),
            )
            for tier, bound in BARS.items()
        ),
        noisy=noisy,
    )


def target_of(bench: Bench, tier: str) -> Target:
    """Set up a server for a tier; return the guard, token and user of its calls."""
    (target,) = load_targets(bench.admin, raised_document(), IDENTITY)
    if tier == COOPERATIVE:
        return target
    made = _keyleash(bench, "fence", "apply", "--mint", "--yes").splitlines()
    passwords = dict(line.split() for line in made)
    return Target(target.guard, target.token, User(IDENTITY, passwords[IDENTITY]))


def _keyleash(bench: Bench, *words: str) -> str:
    environment = {**os.environ, "KEYLEASH_URL": bench.server.url}
    return subprocess.run(
        [sys.executable, "-m", "keyleash", *words],
        env=environment, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def draw(section: Section, folder: Path) -> list[Path]:
    """Draw nothing."""
    del section, folder
    return []
