"""`keyleash audit timeline`: the life of one key."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import click

from keyleash.cli.audit.showing import show_entries
from keyleash.cli.audit.trails import meant_key, nothing_found, time_range, trail_names
from keyleash.cli.options import example, json_lines_option
from keyleash.cli.output import print_json_line, say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.text import printable
from keyleash.cli.times import Moment, since_option, until_option
from keyleash.cli.undo.showing import say_untrusted


@click.command(epilog=example("keyleash audit timeline agents:jobs:42:state --since 1h"))
@click.argument("key")
@since_option
@until_option
@click.option("--limit", type=click.IntRange(1), help="How many, the newest.  [default: all]")
@json_lines_option
@pass_settings
def timeline(
    settings: Settings, key: str, since: Moment | None, until: Moment | None, limit: int | None
) -> None:
    """Show the life of KEY: what every identity did to it or was refused, and what was undone.

    KEY is as it is, or as it is printed. By time, the oldest first. Entries in which the key is
    masked are found as well; untrusted events are left out, and counted at the end. Exit code 1 if
    there are none.
    """
    from keyleash.audit import Query, merged, newest, read_denials, read_events
    from keyleash.audit.undo import Trust

    since_ms, until_ms = time_range(settings, since, until)
    raw = meant_key(settings, key)
    query = Query(key=raw, since_ms=since_ms, until_ms=until_ms)
    where = (settings.client, settings.keyspace)
    trust = Trust.of(*where, [raw])
    names = trail_names(settings)
    backwards = limit is not None
    found: Iterator[Any] = merged(
        [
            filter(trust.is_trusted, read_events(*where, names, query, newest_first=backwards)),
            read_denials(*where, names, query, newest_first=backwards),
        ],
        newest_first=backwards,
    )
    shown = show_entries(settings, found if limit is None else newest(found, limit))
    if settings.json:
        for name, count in (+trust.untrusted).items():
            print_json_line({"kind": "untrusted", "identity": name, "events": count})
    else:
        say_untrusted(+trust.untrusted)
    if not shown:
        raise nothing_found(settings, f"event or refusal of `{printable(raw)}`", query)
    if next(islice(found, 1), None) is not None:
        say(f"there is more: these are the newest {limit}")
