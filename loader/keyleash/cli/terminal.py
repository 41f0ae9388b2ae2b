"""Print documents, lines and tables, and handle signals."""

from __future__ import annotations

import json
import os
import secrets
import signal
import stat
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keyleash.errors import OperationError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text


PIPED_WIDTH = 100_000
GAP = 2
FOLDED = 12
"""No column that folds is narrower than that, unless all that is in it is."""


def print_json(value: Any) -> None:
    """Print the one document of a run with `--json`."""
    click.echo(json.dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    """Print one object of a list with `--json`, on a line of its own."""
    click.echo(json.dumps(value))


def say(line: str) -> None:
    """Print a line that is not the result: on standard error."""
    click.echo(line, err=True)


def write_output(path: Path, data: bytes, mode: int = 0o666) -> None:
    """
    Write a file that the command was asked to write: the whole of it, or nothing.

    It is written beside *path* and renamed, so a symbolic link that somebody puts there is never
    followed, whenever that happens.

    Args:
        mode: Of the file, less the process's umask.

    Raises:
        OperationError (file): *path* is a symbolic link, or no regular file.
        OSError: The file cannot be written.
    """
    with suppress(FileNotFoundError):
        found = path.lstat().st_mode
        if not stat.S_ISREG(found):
            kind = "a symbolic link" if stat.S_ISLNK(found) else "no regular file"
            raise OperationError(
                "file",
                f"`{path}` is {kind}, and is not written to",
                help="name a regular file, or a new one",
                exit_code=1,
            )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(draft, flags, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise


def is_terminal() -> bool:
    """Whether a person looks at standard output."""
    return sys.stdout.isatty()


def console() -> Console:
    """Standard output; nothing in a value is taken for markup."""
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
    """Whether a table needs no folding where it is printed."""
    return _total(_widths(columns, rows)) <= console().width


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]]) -> list[int]:

    cells = [[column.name for column in columns], *rows]
    return [max(cell_len(str(cell)) for cell in column) for column in zip(*cells, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def table(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> Table:
    """
    Rows under headers; long cells fold on a terminal, and never elsewhere.

    No column is narrowed until nobody can read it, and none that does not fold is cut: on a
    terminal too narrow for that a row is one long line, which the terminal breaks.
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
    """Print parts one below the other, without blanks at the ends of lines where nobody watches."""
    out = console()
    if is_terminal():
        out.print(*parts, sep="\n", crop=False)
        return
    with out.capture() as printed:
        out.print(*parts, sep="\n")
    click.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headers; long cells fold on a terminal, and never elsewhere."""
    show(table(columns, rows))


def is_plain() -> bool:
    """Whether colours are not wanted: https://no-color.org, where an empty value says nothing."""
    return bool(os.environ.get("NO_COLOR"))


ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RETRY_S = 0.01


class Ended(BaseException):
    """A signal asked for the end. Not an Exception: nothing may take it for a failure."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn the signals that end a program into `Ended`, so that a command can tidy up."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        # A second one must not interrupt the good order in which the first is carried out.
        for item in ENDING_SIGNALS:
            signal.signal(item, signal.SIG_IGN)
        raise Ended(number)

    def again(lost: sys.UnraisableHookArgs) -> None:
        # What is raised while an object is being deleted goes nowhere, and nobody would end.
        if not isinstance(lost.exc_value, Ended):
            hook(lost)
            return
        for item in ENDING_SIGNALS:
            signal.signal(item, end)
        threading.Timer(RETRY_S, os.kill, (os.getpid(), lost.exc_value.args[0])).start()

    before = {number: signal.signal(number, end) for number in ENDING_SIGNALS}
    hook, sys.unraisablehook = sys.unraisablehook, again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
