"""How far long work is, where a person looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

SOON_S = 1.0
"""What ends sooner shows no bar."""

Report = Callable[[int, int | None], None]
"""Told how much is done, and of how much; None if that is not known."""


@contextmanager
def progress(what: str, *, is_wanted: bool) -> Iterator[Report]:
    """
    Give what is to be told how far some work is.

    It draws a bar on standard error, if that is a terminal and the work is not done soon.

    Args:
        what: Is done, in a word or two.
        is_wanted: False with `--json`.
    """
    if not is_wanted or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console, RenderableType
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    class Late(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            if self.tasks and (self.tasks[0].elapsed or 0) > SOON_S:
                yield from super().get_renderables()

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Late(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def report(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield report
