"""How far a walk over keys is, where a person looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from keyleash.cli.progress import progress

if TYPE_CHECKING:
    from keyleash.vault.moving import Report


@contextmanager
def shown_progress(is_wanted: bool) -> Iterator[Report]:
    """What is to be told how far a walk is."""
    with progress("keys looked at", is_wanted=is_wanted) as report:
        # Keys that are renamed while they are walked over may be seen twice.
        yield lambda walk: report(walk.seen, max(walk.total, walk.seen))
