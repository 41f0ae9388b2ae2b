"""Tables that fit the terminal, and other renderables of rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import click
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from keyleash.cli.terminal import is_terminal

PIPED_WIDTH = 100_000
GAP = 2
FOLDED = 12
"""Minimum width of a folding column, unless its content is shorter."""


def console() -> Console:
    """Return a console for standard output that does not interpret markup in values."""
    return Console(
        width=None if is_terminal() else PIPED_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
    )


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    align: Literal["left", "right"] = "left"
    fold: bool = False


def fits(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether a table fits standard output without folding."""
    return _total(_widths(columns, rows)) <= console().width


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]]) -> list[int]:
    cells = [[column.name for column in columns], *rows]
    return [max(cell_len(str(cell)) for cell in column) for column in zip(*cells, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def table(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table with headers, whose long cells fold on a terminal.

    Cells are never cut, and folding columns keep a minimum width: on a terminal that is too narrow,
    a row is one long line, which the terminal breaks.
    """
    shown = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    widths = _widths(columns, shown)
    least = [
        min(width, FOLDED) if column.fold else width
        for column, width in zip(columns, widths, strict=True)
    ]
    is_too_wide = _total(least) > console().width
    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column, width in zip(columns, widths if is_too_wide else least, strict=True):
        made.add_column(
            column.name,
            justify=column.align,
            overflow="fold",
            no_wrap=is_too_wide or not column.fold,
            min_width=width,
        )
    if is_too_wide:
        made.width = _total(widths)
    for row in shown:
        made.add_row(*row)
    return made


def show(*parts: RenderableType) -> None:
    """Print parts one below the other; outside of a terminal without trailing blanks."""
    out = console()
    if is_terminal():
        out.print(*parts, sep="\n", crop=False)
        return
    with out.capture() as printed:
        out.print(*parts, sep="\n")
    click.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; see `table`."""
    show(table(columns, rows))
