"""`keyleash audit log`: entries of trails, filtered."""

from __future__ import annotations

from itertools import islice

import click

from keyleash.cli.audit.selection import Kind, Selection, selecting
from keyleash.cli.audit.showing import show_entries
from keyleash.cli.audit.trails import nothing_found
from keyleash.cli.options import example, json_lines_option
from keyleash.cli.output import say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.times import until_option

NOTHING = {
    Kind.EVENTS: "no mutations",
    Kind.DENIALS: "nothing was refused",
    Kind.CONTROL: "operators did nothing",
}


@click.command(epilog=example("keyleash audit log agent-runner --since 10m --key 'agents:jobs:*'"))
@selecting
@until_option
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many.")
@click.option(
    "--oldest-first/--newest-first",
    default=None,
    help="Begin there.  [default: the newest, and of these the oldest first]",
)
@json_lines_option
@pass_settings
def log(settings: Settings, selection: Selection, limit: int, oldest_first: bool | None) -> None:
    """Show what identities did, of IDENTITY or of all, by time.

    What a batch did is shown command by command. A gap, where numbers are missing between two
    entries, is told on standard error. Exit code 1 if the options leave nothing.
    """
    from keyleash.audit import EVERYTHING

    query = selection.query(settings)
    if selection.op and selection.kind is Kind.DENIALS and not settings.json:
        say("`--op` does not find denials that are counted with one of another command: `×N`")
    found = selection.read(settings, query, newest_first=not oldest_first)
    chosen = islice(found, limit)
    shown = show_entries(
        settings,
        list(chosen)[::-1] if oldest_first is None else chosen,
        newest_first=oldest_first is False,
        gaps=query.takes_all and selection.kind is not Kind.CONTROL,
    )
    if shown and next(found, None) is not None:
        say(f"there is more: these are the {'oldest' if oldest_first else 'newest'} {limit}")
    if not shown and query != EVERYTHING:
        raise nothing_found(settings, f"such {selection.kind}", query)
    if not shown and not settings.json:
        say(NOTHING[selection.kind])
