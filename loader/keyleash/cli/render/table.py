"""Tables that fit the terminal, and other renderables of rich."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import chain, islice
from typing import Any, Literal

import click
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from keyleash.cli.terminal import is_terminal, screen_rows

PIPED_WIDTH = 100_000
GAP = 2
FOLDED = 12
"""Minimum width of a folding column, unless its content is shorter."""
LONGEST = 256
"""Characters of a cell at most; `--json` has all."""
PADDED = 100
"""Width to which the cells of a column are padded at most."""
SAMPLED = 500
"""Rows that decide the widths of the columns of a longer table, which is printed as it is read."""


def console() -> Console:
    """Return a console for standard output that does not interpret markup in values."""
    width = None if is_terminal() else PIPED_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False)


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    align: Literal["left", "right"] = "left"
    fold: bool = False


def columns(*names: str, right: Collection[str] = (), fold: Collection[str] = ()) -> list[Column]:
    """Return columns by their names; those in *right* have numbers, those in *fold* long texts."""
    return [Column(name, "right" if name in right else "left", name in fold) for name in names]


def fits(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether a table fits standard output without folding."""
    return not is_terminal() or _total(_widths(columns, rows)) <= console().width


def clipped(text: str, most: int = LONGEST) -> str:
    """Return *text* in at most *most* characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]]) -> list[int]:
    cells = [[column.name for column in columns], *rows]
    return [max(cell_len(str(cell)) for cell in column) for column in zip(*cells, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def lines(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> Iterator[str]:
    """Yield the lines of a table as its rows are read, for pipes and for many rows."""
    cells = ([clipped(str(cell)) for cell in row] for row in rows)
    first = list(islice(cells, SAMPLED))
    widths = [min(width, PADDED) for width in _widths(columns, first)]
    for row in chain([[column.name for column in columns]], first, cells):
        padded = []
        for cell, column, width in zip(row, columns, widths, strict=True):
            blanks = " " * (width - cell_len(cell))
            padded.append(cell + blanks if column.align == "left" else blanks + cell)
        yield (" " * GAP).join(padded).rstrip()


def table(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> RenderableType:
    """Return a table with headers, whose long cells fold on a terminal.

    Folding columns keep a minimum width: on a terminal that is too narrow, a row is one long line,
    which the terminal breaks.
    """
    shown = [[Text(clipped(x)) if isinstance(x, str) else x for x in row] for row in rows]
    widths = _widths(columns, shown)
    least = [
        min(width, FOLDED) if column.fold else width
        for column, width in zip(columns, widths, strict=True)
    ]
    if not is_terminal() or _total(least) > console().width:
        return Text("\n".join(lines(columns, shown)), no_wrap=True, overflow="ignore")
    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column, width in zip(columns, least, strict=True):
        wrapping: dict[str, Any] = {"overflow": "fold", "no_wrap": not column.fold}
        made.add_column(column.name, justify=column.align, min_width=width, **wrapping)
    for row in shown:
        made.add_row(*row)
    return made


def show(*parts: RenderableType) -> None:
    """Print parts one below the other."""
    if is_terminal():
        console().print(Group(*parts), crop=False)  # it joins texts alone, and folds the rows
    else:
        click.echo("\n".join(map(str, parts)))


def fitting(most: int, parts: Callable[[int], Iterable[RenderableType]], besides: int = 1) -> int:
    """Return how many items fit the screen with *besides* lines, by the *parts* that show them."""
    room = screen_rows(PIPED_WIDTH, besides)
    return max(1, bisect_right(range(1, most + 1), room, key=lambda count: _height(parts(count))))


def _height(parts: Iterable[RenderableType]) -> int:
    width, shown = console().width, StringIO()
    Console(file=shown, width=width, color_system=None).print(Group(*parts), crop=False)
    return sum(max(1, -(-cell_len(line) // width)) for line in shown.getvalue().splitlines())


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; see `table`, or `lines` for more than `SAMPLED` rows."""
    rows = iter(rows)
    first = list(islice(rows, SAMPLED + 1))
    if is_terminal() and len(first) <= SAMPLED:
        show(table(columns, first))
        return
    for line in lines(columns, chain(first, rows)):
        click.echo(line)
