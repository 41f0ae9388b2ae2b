"""Identities in the policy: their cost per call and load, and their memory.

A server has one active policy, so every size has its own server. All servers share one core and
take turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from benchmarks.growth import loading
from benchmarks.growth.curves import Growth
from benchmarks.growth.loading import (
    Footprint,
    Loaded,
    document,
    footprint,
    guarded_set,
    load,
    runner,
)
from benchmarks.growth.sampling import Case, Yard, curves_of
from benchmarks.support.bars import Bar, Side
from benchmarks.support.bench import Bench
from benchmarks.support.by_hand import GUARD_SCRIPT

BAR, AIM = 1.05, 1.00
GROWS = "identities in the policy"
ONE, ALL = "one identity calls", "all identities call in turn"
BESIDE = "one identity beside as many scripts of one line"
BESIDE_LEAST = "one identity beside as many guards by hand, for SET alone"
SCRIPTS_EACH = 2
WHOLE_CYCLE = 20_000
"""Calls per sample if many scripts are loaded: a cycle of Lua's collector takes thousands of calls,
and its phases differ in cost."""
MANY = 100


def measure(yard: Yard) -> list[Growth]:
    """Guards of agent-runner under other names: calls, loading, memory."""
    sizes = yard.sizes((1, 10, 100, 1_000), (1, 50))
    loads: dict[int, Loaded] = {}
    taken: dict[int, Footprint] = {}
    with ExitStack() as stack:
        benches = {size: stack.enter_context(yard.server()) for size in sizes}
        for size, bench in benches.items():
            before = footprint(bench.admin)
            loads[size] = load(bench, document(runner(f"agent-{n:04}") for n in range(size)))
            taken[size] = footprint(bench.admin).minus(before)
        most = max(sizes)
        alone = {name: stack.enter_context(yard.server()) for name in (BESIDE, BESIDE_LEAST)}
        targets = {
            name: load(bench, document([runner("agent-0000")])).targets
            for name, bench in alone.items()
        }
        for number in range(SCRIPTS_EACH * (most - 1)):
            alone[BESIDE].admin.script_load(f"return {number}")
            alone[BESIDE_LEAST].admin.script_load(
                GUARD_SCRIPT.replace("bench:", f"bench:{number}:").replace(
                    "jobs:", f"jobs:{number}:"
                )
            )
        beside = [
            Case(name, size, bench, guarded_set(name), called, _requests(yard, size))
            for name in alone
            for size, bench, called in (
                (1, benches[1], loads[1].targets),
                (most, alone[name], targets[name]),
            )
        ]
        names = [target.guard.identity for target in loads[most].targets]
        return [
            _calls(yard, benches, loads, beside),
            *loading.growths_of(loads),
            loading.growth_of(
                "memory, identities",
                GROWS,
                {
                    "keys and texts of scripts": {size: item.data for size, item in taken.items()},
                    "Lua's machine": {size: item.lua for size, item in taken.items()},
                    "both": {size: item.total for size, item in taken.items()},
                },
                (loading.keys_remark(benches[most].admin, names[:10]),),
            ),
        ]


def _requests(yard: Yard, size: int) -> int:
    return yard.plan.requests if size < MANY else WHOLE_CYCLE


def _calls(
    yard: Yard, benches: Mapping[int, Bench], loads: Mapping[int, Loaded], beside: Sequence[Case]
) -> Growth:
    cases = []
    for size, bench in benches.items():
        targets, requests = loads[size].targets, _requests(yard, size)
        cases.append(Case(ONE, size, bench, guarded_set(ONE), targets[:1], requests))
        cases.append(Case(ALL, size, bench, guarded_set(ALL), targets, requests))
    cases += beside
    curves, noisy = curves_of(cases)
    most = max(benches)
    return Growth(
        "identities",
        GROWS,
        "µs of server CPU per SET",
        curves,
        tuple(
            Bar(
                f"server CPU per SET, {most:,} identities, {curve.name}",
                Side.AT_MOST,
                BAR,
                "that with 1",
                curve.growth_to(most).median,
                AIM,
            )
            for curve in curves
            if curve.name in (ONE, ALL)
        ),
        noisy=noisy,
    )
