"""The ladder as a plot: commands per second on each rung, by those of the raw command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.ladder import (
    BATCH,
    BY_HAND,
    GUARDED_SET,
    IMAGED_SET,
    MANY,
    RAW_SET,
    SET_AND_EVENT,
    SET_ONLY,
    SIZE,
)
from benchmarks.support.plots import colours_of, new_figure, save
from benchmarks.support.report import OPS_PER_S
from benchmarks.support.section import Section
from benchmarks.support.spread import Spread

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
"""A shorter bar has its figure beside it."""


def draw_ladder(section: Section, file: Path) -> Path:
    """A panel for each number of clients and of commands in a write; a bar for each server."""
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
    return save(figure, file)


def _bars(panel: Any, shares: dict[str, Spread], offset: float, label: str, colour: str) -> None:
    """One server's bars, each with its median and a whisker from the least to the greatest."""
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
