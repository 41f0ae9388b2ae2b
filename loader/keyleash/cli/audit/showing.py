"""Entries of trails as people and programs read them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from keyleash.cli.audit.as_json import entry_as_json
from keyleash.cli.audit.tables import print_control, print_trail
from keyleash.cli.output import print_json_line, say
from keyleash.cli.settings import Settings
from keyleash.cli.text import clock_time, counted

if TYPE_CHECKING:
    from keyleash.audit import Gap
    from keyleash.cli.audit.selection import AnyEntry


def show_entries(
    settings: Settings,
    entries: Iterable[AnyEntry],
    *,
    gaps: bool = False,
    newest_first: bool = False,
) -> int:
    """Print entries, as lines of JSON as soon as they are read, or as a table.

    Args:
        settings: Of this run.
        entries: In the order in which they are to be shown.
        gaps: Whether numbers that are missing are gaps, which are told.
        newest_first: That order.

    Returns:
        How many entries there were.
    """
    from keyleash.audit import ControlEvent, Denial, Gap, with_gaps

    shown: list[Any] = []
    missing: list[Gap] = []
    count = 0
    told: Iterable[Any] = with_gaps(entries, newest_first=newest_first) if gaps else entries
    for one in told:
        count += not isinstance(one, Gap)
        if settings.json:
            print_json_line(entry_as_json(one))
        else:
            (missing if isinstance(one, Gap) else shown).append(one)
    if shown:
        print_control(shown) if isinstance(shown[0], ControlEvent) else print_trail(shown)
    for gap in missing:
        say_gap(gap)
    if folded := sum(one.folded_count for one in shown if isinstance(one, Denial)):
        say(
            f"{counted(folded, 'denial')} {'has' if folded == 1 else 'have'} no entry:"
            " `×` counts them with the first of their kind"
        )
    return count


def say_gap(gap: Gap) -> None:
    """Tell of a gap, on standard error."""
    numbers = f"{gap.first}" if gap.missing == 1 else f"{gap.first} to {gap.last}"
    say(
        f"gap: {counted(gap.missing, gap.kind)} of {gap.identity} missing before"
        f" {clock_time(gap.time_ms)}: {numbers}"
    )
