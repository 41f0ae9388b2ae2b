"""Style of plots; needs matplotlib.

The background is white, so that text is readable on a dark page. Equal figures make equal files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999999")
"""Colours for all kinds of vision (Okabe and Ito); white text is readable on the first three."""

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # Text as outlines has the same width everywhere.
    "svg.fonttype": "path",
    "svg.hashsalt": "keyleash",
}


mpl.rcParams.update(STYLE)


def new_figure(rows: int, columns: int, *, width: float, height: float, **shared: Any) -> Any:
    """Return a figure and the array of its axes; *width* and *height* in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def save(figure: Figure, file: Path) -> Path:
    """Write the figure in the format of the file's suffix."""
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    return file


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Return a colour per name, in order, repeating."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
