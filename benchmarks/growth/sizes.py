"""Length of the key and of the value: guarded, raw, and their ratio."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.growth.curves import Curve, Growth, divided
from benchmarks.growth.loading import document, guarded_set, identity, load
from benchmarks.growth.sampling import Case, Yard, curves_of
from benchmarks.support.bars import Bar, Side, spread_of
from benchmarks.support.bench import Bench
from benchmarks.support.policy import Target, load_target
from benchmarks.support.variants import KEY, OK, VALUE, Variant, Way

BAR, AIM = 3.6, 2.0
BAR_BYTES = 16 * 1024
KEY_PATTERN, JOB_BYTES = "k:{job_id}:s", 12
RAW, GUARDED, RATIO = "raw SET", "guarded SET", "guarded by raw"
FULL_BYTES, FEWEST = 4 * 1024, 100
"""Samples of larger values make proportionally fewer calls, but at least `FEWEST`."""


def measure(yard: Yard) -> list[Growth]:
    """Measure keys with a short pattern, and values with the guard of agent-runner."""
    with yard.server() as bench:
        (target,) = load(bench, document([identity("agent", [KEY_PATTERN])])).targets
        sizes = yard.sizes((16, 64, 256, 1024, 4096), (16, 4096))
        keys = _measured(bench, target, {size: (key_of(size), VALUE) for size in sizes})
    with yard.server() as bench:
        target = load_target(bench.admin)
        sizes = yard.sizes((64, 1024, 4096, BAR_BYTES, 65_536, 262_144), (64, BAR_BYTES))
        values = _measured(bench, target, {size: (KEY, value_of(size)) for size in sizes})
    return [*_growths("key length", *keys), *_growths("value size", *values, bar=True)]


def key_of(size: int) -> str:
    """Return a key of the given number of bytes, once its `{job}` is filled in."""
    padding = size - len(KEY_PATTERN.replace("{job_id}", "")) - JOB_BYTES
    return KEY_PATTERN.replace("{job_id}", "x" * padding + "{job}")


def value_of(size: int) -> str:
    """Return a value of the given size, different per job: Lua interns equal strings."""
    return "{job}" + "v" * (size - JOB_BYTES)


def _measured(
    bench: Bench, target: Target, sets: dict[int, tuple[str, str]]
) -> tuple[Curve, Curve, bool]:
    """Return curves of raw and guarded SETs, and whether the run was noisy."""

    def cases() -> Iterable[Case]:
        for size, (key, value) in sets.items():
            requests = bench.plan.requests * FULL_BYTES // max(len(value), FULL_BYTES)
            for variant in (
                Variant(RAW, ("SET", key, value), OK, Way.RAW, RAW),
                guarded_set(GUARDED, key, value),
            ):
                yield Case(variant.name, size, bench, variant, (target,), max(FEWEST, requests))

    (raw, guarded), noisy = curves_of(list(cases()))
    return raw, guarded, noisy


def _growths(
    name: str, raw: Curve, guarded: Curve, noisy: bool, *, bar: bool = False
) -> list[Growth]:
    grows = f"bytes of the {name.split(maxsplit=1)[0]}"
    ratio = divided(RATIO, guarded, raw)
    bars = (_bar(spread_of(ratio.at(BAR_BYTES).values).median),) if bar else ()
    return [
        Growth(name, grows, "µs of server CPU per SET", (raw, guarded), noisy=noisy),
        Growth(f"{name}, ratio", grows, "× raw SET", (ratio,), bars, noisy=noisy),
    ]


def _bar(ratio: float) -> Bar:
    size = f"{BAR_BYTES // 1024} KiB"
    return Bar(f"server CPU per guarded SET of {size}", Side.AT_MOST, BAR, "raw SET", ratio, AIM)
