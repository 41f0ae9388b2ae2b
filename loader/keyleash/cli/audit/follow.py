"""`keyleash audit follow`: trails as they grow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.audit.as_json import entry_as_json
from keyleash.cli.audit.selection import Kind, Selection, selecting
from keyleash.cli.audit.showing import say_gap
from keyleash.cli.audit.tables import entry_line
from keyleash.cli.options import example, json_lines_option
from keyleash.cli.output import print_json_line, say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.signals import Ended, ended_by_signals

if TYPE_CHECKING:
    from keyleash.audit import Query
    from keyleash.cli.audit.selection import AnyEntry


@click.command(epilog=example("keyleash audit follow --denied --json | jq .code"))
@selecting
@json_lines_option
@pass_settings
def follow(settings: Settings, selection: Selection) -> None:
    """Show what identities do, of IDENTITY or of all, as it happens.

    Runs until Ctrl-C. With --since, what is recorded from then on comes first. Identities that
    are loaded meanwhile are followed as well. A refusal that is repeated comes again, with its
    number, when its minute is over.
    """
    from keyleash.audit import Gap, with_gaps

    query = selection.query(settings)
    selection.names(settings)
    if not settings.json:
        say("waiting; stop it with Ctrl-C")
    gaps = query.takes_all and selection.kind is Kind.EVENTS
    try:
        with ended_by_signals():
            found: Iterator[Any] = filter(None, _follow(settings, selection, query))
            for one in with_gaps(found) if gaps else found:
                if settings.json:
                    print_json_line(entry_as_json(one))
                elif isinstance(one, Gap):
                    say_gap(one)
                else:
                    click.echo(entry_line(one))
    except Ended:
        pass


def _follow(settings: Settings, selection: Selection, query: Query) -> Iterator[AnyEntry | None]:
    from keyleash import audit

    where = (settings.client, settings.keyspace)
    match selection.kind:
        case Kind.EVENTS:
            return audit.follow_events(*where, lambda: selection.names(settings), query)
        case Kind.DENIALS:
            return audit.follow_denials(*where, lambda: selection.names(settings), query)
        case Kind.CONTROL:
            return audit.follow_control(*where, selection.identities or None, query)
