"""Bar chart: p50 of a call per peer, and overruns in races."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.report import BY_OURS, CHARGED, OVERRUN, P50
from benchmarks.support.section import Section
from matplotlib.figure import Figure

OURS, FLOOR, UNSAFE, OTHERS = "#1b7f5c", "#9aa0a6", "#c8553d", "#3d6b9e"


def bars_of_calls(section: Section, path: Path) -> Path:
    """Draw the section's figures as an SVG file at *path*."""
    values = {(item.series, item.unit): item.value for item in section.figures}
    names = list(dict.fromkeys(item.series for item in section.figures))
    p50 = [values[name, P50] for name in names]
    overruns = [values[name, OVERRUN].greatest for name in names]
    figure = Figure(figsize=(9, 0.38 * len(names) + 1.4), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(
        names,
        [item.median for item in p50],
        xerr=[
            [item.median - item.least for item in p50],
            [item.greatest - item.median for item in p50],
        ],
        color=[_colour(*named) for named in zip(names, overruns, strict=True)],
        error_kw={"ecolor": "#555555", "elinewidth": 0.8},
    )
    axes.bar_label(
        drawn,
        [
            f"{values[name, BY_OURS].median:.2f}×{_race(over, (name, CHARGED) in values)}"
            for name, over in zip(names, overruns, strict=True)
        ],
        padding=6,
        fontsize=8,
    )
    axes.margins(x=0.2)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("p50 of a call, µs; lines from the least round to the greatest")
    axes.set_title(
        "SET with token, prefix, rate, budget and event: p50, and × keyleash by the same client",
        fontsize=10,
        loc="left",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    return path


def _race(overrun: float, counted: bool) -> str:
    if not counted:
        return "   no budget"
    return f"   {overrun:+.0f} in a race" if overrun else ""


def _colour(name: str, overrun: float) -> str:
    if name.startswith("keyleash"):
        return OURS
    if name.startswith("plain"):
        return FLOOR
    return UNSAFE if overrun else OTHERS
