"""Before-images: a guarded SET that records the previous value, relative to one that does not."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.growth.curves import Growth, divided
from benchmarks.growth.loading import document, guarded_set, identity, load
from benchmarks.growth.sampling import Case, Yard, curves_of
from benchmarks.growth.sizes import value_of
from benchmarks.support.bars import Bar, Side, spread_of
from benchmarks.support.bench import Bench
from benchmarks.support.policy import Target
from benchmarks.support.variants import KEY, Counts

BAR = 1.6
BAR_BYTES = 1024
KEYS = ("agents:jobs:{job_id}:state",)
IMAGES = ", before_images: {max_bytes: 1mb}"
GROWS = "bytes of the value"
KINDS = ("a value that compresses", "random text")
WITHOUT, WITH = "no images", "images"


def measure(yard: Yard) -> list[Growth]:
    """Compare two identities that differ only in this, with values that compress and others."""
    sizes = yard.sizes((64, BAR_BYTES, 4096, 16_384), (64, BAR_BYTES))
    plain, imaged = (
        identity(name, KEYS, audit=more) for name, more in (("plain", ""), ("imaged", IMAGES))
    )
    with yard.server() as bench:
        targets = load(bench, document([plain, imaged])).targets
        curves, noisy = curves_of(list(_cases(bench, targets, sizes)))
    by_name = {curve.name: curve for curve in curves}
    ratios = [
        divided(kind, by_name[f"{kind}, {WITH}"], by_name[f"{kind}, {WITHOUT}"]) for kind in KINDS
    ]
    bars = tuple(
        Bar(
            f"server CPU per guarded SET of 1 KiB with before-images, {ratio.name}",
            Side.AT_MOST,
            BAR,
            "without",
            spread_of(ratio.at(BAR_BYTES).values).median,
        )
        for ratio in ratios
    )
    return [
        Growth("before-images", GROWS, "µs of server CPU per SET", curves, noisy=noisy),
        Growth("before-images, ratio", GROWS, "× without", tuple(ratios), bars, noisy=noisy),
    ]


def _cases(bench: Bench, targets: tuple[Target, ...], sizes: tuple[int, ...]) -> Iterator[Case]:
    for kind in KINDS:
        for size in sizes:
            value = value_of(size) if kind == KINDS[0] else random_text(size)
            for name, target, entries in zip((WITHOUT, WITH), targets, (1, 2), strict=True):
                # The digest of the new value is a second entry.
                counts = Counts(passed=1, audited=entries)
                curve = f"{kind}, {name}"
                variant = replace(guarded_set(curve, KEY, value), counts=counts)
                yield Case(curve, size, bench, variant, (target,), bench.plan.requests)


def random_text(size: int) -> str:
    """Return random letters and digits, which LZF cannot compress."""
    letters = random.Random(size)
    return "".join(letters.choices(string.ascii_letters + string.digits, k=size))
