"""Server cost from a raw SET to the full guard, step by step.

Each step adds something: a script, an audit event, the guard's checks written by hand, the guard.
Batches, denied calls and GET are measured, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis
from benchmarks.support.bars import Bar, Side, Spread, ratios
from benchmarks.support.bench import Contender, Plan, Samples, bench_on
from benchmarks.support.by_hand import (
    BATCH_SCRIPT,
    EVENT_SCRIPT,
    GUARD_SCRIPT,
    SET_SCRIPT,
    SETS_SCRIPT,
)
from benchmarks.support.load import Generator
from benchmarks.support.measure import fill_keys
from benchmarks.support.policy import IDENTITY, IMAGED, load_targets, raised_document, with_images
from benchmarks.support.report import (
    OPS_PER_S,
    Row,
    figures_of,
    heading,
    is_noisy,
    remarks_of,
    row_of,
    rows_of,
    table_of,
)
from benchmarks.support.section import Section, Setting, joined
from benchmarks.support.servers import Cores, ServerChoice, version_of
from benchmarks.support.variants import (
    CALLS_PER_CONNECTION,
    KEY,
    KEY_OF_ANOTHER,
    OK,
    THE_VALUE,
    VALUE,
    Counts,
    Variant,
    Way,
)

NAME = "ladder"

SIZE = 16
"""Commands in a pipeline, and in a batch."""

_SET = ("SET", KEY, VALUE)
_ID = "0123456789abcdef"

RAW_SET = Variant("raw SET", _SET, OK, Way.RAW, "raw SET")
SET_ONLY = Variant(
    "EVALSHA that only SETs",
    ("EVALSHA", "{script}", "1", KEY, VALUE),
    OK,
    Way.RAW,
    RAW_SET.name,
    script=SET_SCRIPT,
)
SET_AND_EVENT = Variant(
    "EVALSHA of SET and XADD",
    ("EVALSHA", "{script}", "1", KEY, VALUE, _ID, f"{_ID}-{{job}}"),
    OK,
    Way.RAW,
    RAW_SET.name,
    script=EVENT_SCRIPT,
)
BY_HAND = Variant(
    "by hand, for SET alone",
    ("EVALSHA", "{script}", "1", KEY, f"kl_agent-runner_{_ID}{_ID}", f"{_ID}-{{job}}", *_SET),
    OK,
    Way.RAW,
    RAW_SET.name,
    script=GUARD_SCRIPT,
)
GUARDED_SET = Variant("guarded SET", _SET, OK, Way.GUARD, RAW_SET.name, Counts(passed=1, audited=1))
DENIED_SET = Variant(
    "guarded SET, denied",
    ("SET", KEY_OF_ANOTHER, VALUE),
    f"-LEASH KEY_NOT_GRANTED key={KEY_OF_ANOTHER}\r\n",
    Way.GUARD,
    RAW_SET.name,
    Counts(denied=1),
)
IMAGED_SET = replace(
    # The digest of the new value is a second entry.
    GUARDED_SET,
    name="guarded SET, before-images",
    counts=Counts(passed=1, audited=2),
)
RAW_GET = Variant("raw GET", ("GET", KEY), THE_VALUE, Way.RAW, "raw GET")
GUARDED_GET = Variant(
    "guarded GET", ("GET", KEY), THE_VALUE, Way.GUARD, RAW_GET.name, Counts(passed=1)
)
BATCH = Variant(
    "guarded batch",
    _SET,
    OK,
    Way.BATCH,
    RAW_SET.name,
    Counts(passed=SIZE, audited=1),
    commands=SIZE,
)
BATCH_OF_SETS = Variant(
    "EVALSHA that only SETs all",
    _SET,
    OK,
    Way.BATCH_OF_SCRIPT,
    RAW_SET.name,
    commands=SIZE,
    script=SETS_SCRIPT,
)
BATCH_BY_HAND = replace(BATCH_OF_SETS, name="batch by hand, of SETs alone", script=BATCH_SCRIPT)

BATCH_OF_64 = replace(
    BATCH, name="guarded batch of 64", counts=Counts(passed=64, audited=1), commands=64
)
BATCH_OF_GETS = Variant(
    "guarded batch of GETs",
    RAW_GET.command,
    THE_VALUE,
    Way.BATCH,
    RAW_GET.name,
    Counts(passed=SIZE),
    commands=SIZE,
)

ONE_BY_ONE = (
    RAW_SET,
    SET_ONLY,
    SET_AND_EVENT,
    BY_HAND,
    GUARDED_SET,
    IMAGED_SET,
    DENIED_SET,
    RAW_GET,
    GUARDED_GET,
)
PIPED = tuple(variant.piped(SIZE) for variant in ONE_BY_ONE)
VARIANTS = (*ONE_BY_ONE, *PIPED, BATCH_OF_SETS, BATCH_BY_HAND, BATCH)
COUNTED = (*ONE_BY_ONE, BATCH_OF_SETS, BATCH_BY_HAND, BATCH, BATCH_OF_64, BATCH_OF_GETS)
"""The variants whose instructions are counted. Pipelines differ only in reading a socket."""

MANY = 50
FULL = Plan(rounds=7, requests=500, connections=(MANY, 1), run_s=0.06)
QUICK = Plan(rounds=3, requests=200, connections=(MANY, 1), run_s=0.015)


def measure(setting: Setting) -> Section:
    """Measure every server in turn."""
    plan = QUICK if setting.quick else FULL
    with Generator(setting.cores.client) as generator:
        return joined(
            NAME, [measure_on(choice, plan, setting.cores, generator) for choice in setting.servers]
        )


def measure_on(choice: ServerChoice, plan: Plan, cores: Cores, generator: Generator) -> Section:
    """Start a server, run all rounds, and summarize the samples."""
    with bench_on(choice, plan, cores, generator) as bench:
        contenders = contenders_on(bench.admin)
        fill_keys(bench.admin, MANY * CALLS_PER_CONNECTION * SIZE)
        bench.warm_up(contenders)
        samples = bench.rounds(contenders)
        version = version_of(bench.admin)
    rows = rows_of(samples, VARIANTS)
    lines = [
        heading(version, choice.name, plan, cores),
        table_of(rows),
        *remarks_of(rows, whole_process=bench.clock.whole_process),
    ]
    return Section(
        NAME,
        "\n".join(lines),
        figures_of(rows, version),
        tuple((version, bar) for bar in bars_of(rows, samples)),
        noisy=is_noisy(rows),
    )


def contenders_on(admin: redis.Redis, variants: Sequence[Variant] = VARIANTS) -> list[Contender]:
    """Activate the policy; return each variant with its guard."""
    document = with_images(raised_document())
    target, imaged = load_targets(admin, document, IDENTITY, IMAGED)
    return [
        Contender(variant, imaged if variant.name == IMAGED_SET.name else target)
        for variant in variants
    ]


def bars_of(rows: tuple[Row, ...], samples: Samples) -> tuple[Bar, ...]:
    """Return the bars of a server."""

    def rate(
        what: str, variant: Variant, connections: int, of: str, bound: float, aim: float
    ) -> Bar:
        value = row_of(rows, variant, connections).rate_ratio.median
        where = f"{connections} client{'s'[: connections - 1]}"
        return Bar(f"{what}, ops/s at {where}", Side.AT_LEAST, bound, of, value, aim)

    def cost(variant: Variant, other: Variant, bound: float, aim: float) -> Bar:
        ours, theirs = (
            [sample.server_us for sample in samples[item, MANY]] for item in (variant, other)
        )
        what = f"{variant.name}, server CPU at {MANY} clients"
        return Bar(what, Side.AT_MOST, bound, other.name, ratios(ours, theirs).median, aim)

    pipeline = f"raw pipeline of {SIZE}"
    piped, batch = f"guarded SETs, pipeline of {SIZE}", f"batch of {SIZE}"
    return (
        rate(GUARDED_SET.name, GUARDED_SET, 1, RAW_SET.name, 0.69, 0.72),
        rate(GUARDED_SET.name, GUARDED_SET, MANY, RAW_SET.name, 0.46, 0.50),
        rate(piped, GUARDED_SET.piped(SIZE), MANY, pipeline, 0.145, 0.18),
        rate(batch, BATCH, 1, pipeline, 0.45, 0.52),
        rate(batch, BATCH, MANY, pipeline, 0.38, 0.45),
        cost(GUARDED_SET, BY_HAND, 1.15, 1.08),
        cost(BATCH, BATCH_BY_HAND, 1.3, 1.15),
        cost(DENIED_SET, GUARDED_SET, 0.9, 0.6),
    )


RUNGS = (
    RAW_SET.name,
    SET_ONLY.name,
    SET_AND_EVENT.name,
    BY_HAND.name,
    GUARDED_SET.name,
    IMAGED_SET.name,
    BATCH.name,
)

PANELS = ((1, 1), (MANY, 1), (1, SIZE), (MANY, SIZE))
"""Clients, and commands in a write."""

BAR_HEIGHT = 0.28
SHORT = 0.12
"""A shorter bar has its value beside it."""


def draw(section: Section, folder: Path) -> list[Path]:
    """Draw a panel per number of clients and pipeline size, with a bar per server."""
    from benchmarks.support.plots import colours_of, new_figure, save  # noqa: PLC0415 - needs matplotlib

    shares = {
        (figure.at["clients"], figure.at["pipeline"], figure.series, figure.server): figure.value
        for figure in section.figures
        if figure.unit == f"× {RAW_SET.name}, {OPS_PER_S}"
    }
    colours = colours_of(list(dict.fromkeys(figure.server for figure in section.figures)))
    figure, axes = new_figure(2, 2, width=9, height=5.6, sharex=True, sharey="row")
    for panel, (clients, pipeline) in zip(axes.flat, PANELS, strict=True):
        how = "one command a write" if pipeline == 1 else f"{pipeline} commands a write"
        panel.set_title(f"{clients} client{'s'[: clients - 1]}, {how}", loc="left")
        for place, (server, colour) in enumerate(colours.items()):
            own = {
                rung: shares[clients, pipeline, rung, server]
                for rung in RUNGS
                if (clients, pipeline, rung, server) in shares
            }
            _bars(
                panel, own, (place - (len(colours) - 1) / 2) / (len(colours) + 0.6), server, colour
            )
        rungs = RUNGS if pipeline > 1 else RUNGS[:-1]
        panel.set_yticks(range(len(rungs)), rungs)
        panel.set_ylim(len(rungs) - 0.5, -0.5)
        panel.grid(visible=False, axis="y")
        panel.set_xlim(0, 1.15)
    figure.supxlabel("commands per second, × raw SET in the same circumstances", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return [save(figure, folder / "ladder.svg")]


def _bars(panel: Any, shares: dict[str, Spread], offset: float, label: str, colour: str) -> None:
    """Draw a server's bars with medians and whiskers from minimum to maximum."""
    places = [RUNGS.index(rung) + offset for rung in shares]
    values = list(shares.values())
    whiskers = [
        [value.median - value.least for value in values],
        [value.greatest - value.median for value in values],
    ]
    panel.barh(
        places,
        [value.median for value in values],
        height=BAR_HEIGHT * 0.9,
        color=colour,
        label=label,
        xerr=whiskers,
        error_kw={"ecolor": "#555555", "elinewidth": 0.7},
    )
    for place, value in zip(places, values, strict=True):
        fits = value.median >= SHORT
        at, text_colour = (0.01, "white") if fits else (value.greatest + 0.01, "#333333")
        panel.text(at, place, f"{value.median:.2f}", va="center", fontsize=7, color=text_colour)
