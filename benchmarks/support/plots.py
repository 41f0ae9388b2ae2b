"""How plots look: one style, one colour a server, SVG files that do not differ without reason.

The background is white on purpose: a transparent one leaves dark letters on a dark page.
Only the modules that draw import this: it needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999999")
"""To be told apart with any eyes (Okabe and Ito); white letters can be read on the first three."""

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
    # Letters as outlines: the same widths wherever it is shown.
    "svg.fonttype": "path",
    # The same figures make the same file.
    "svg.hashsalt": "keyleash",
}


mpl.rcParams.update(STYLE)


def new_figure(rows: int, columns: int, *, width: float, height: float, **shared: Any) -> Any:
    """A figure and the two-dimensional array of its axes; *width* and *height* in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def save(figure: Figure, file: Path) -> Path:
    """Write the figure; the end of the name says as what."""
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    return file


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in their order; after the last one the first again."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
