"""How far a walk over keys is, where a person looks, and what it did."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyleash.vault import Progress
    from keyleash.vault.moving import Report


@contextmanager
def shown_progress(is_wanted: bool) -> Iterator[Report | None]:
    """What is to be told how far a walk is; it draws a bar on standard error, if on a terminal."""
    if not is_wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("keys looked at"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[moved]} moved"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, moved=0)

        def report(progress: Progress) -> None:
            # Keys that are renamed while they are walked over may be seen twice.
            total = max(progress.total, progress.seen)
            bar.update(task, completed=progress.seen, total=total, moved=f"{progress.moved:,}")

        yield report
