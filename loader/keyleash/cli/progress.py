"""A progress bar for work that takes a while."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from keyleash.cli.settings import Settings
from keyleash.results import Progress as Report

SOON_S = 1.0
"""Work that ends sooner shows no progress bar."""


def waiting(settings: Settings) -> AbstractContextManager[Report]:
    """Return a progress bar for reading entries, whose number is unknown."""
    return progress("reading", is_wanted=not settings.json)


@contextmanager
def progress(label: str, *, is_wanted: bool) -> Iterator[Report]:
    """Yield a function that updates a progress bar with a *label*, unless `--json` is given.

    The bar is on standard error, and only if that is a terminal and the work takes a while.
    """
    if not is_wanted or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return

    class Late(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            if self.tasks and (self.tasks[0].elapsed or 0) > SOON_S:
                yield from super().get_renderables()

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Late(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
