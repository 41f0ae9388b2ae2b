"""`keyleash audit report`: the incident report."""

from __future__ import annotations

from pathlib import Path

import click

from keyleash.audit import Query
from keyleash.audit.report.html import gather, render
from keyleash.cli.audit_selection import correlation_id, nothing_found, time_range, trail_names
from keyleash.cli.options import (
    IDENTITY,
    Moment,
    example,
    json_option,
    since_option,
    until_option,
)
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_note, write_output
from keyleash.errors import UsageError
from keyleash.status import identity_statuses
from keyleash.store.identities import server_time_ms
from keyleash.store.records import read_active
from keyleash.text import counted, iso_time, printable


@click.command(epilog=example("keyleash audit report --since 1h -o report.html"))
@since_option
@until_option
@click.option("--identity", metavar="NAME", type=IDENTITY, help="Only this identity.")
@click.option(
    "--correlation",
    metavar="ID",
    callback=correlation_id,
    help="Only this correlation id.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the page; a file of that name is replaced. `-` is standard output.",
)
@json_option
@pass_settings
def report(
    settings: Settings,
    since: Moment | None,
    until: Moment | None,
    identity: str | None,
    correlation: str | None,
    output: Path,
) -> None:
    """Write an incident report of a time range as one HTML page.

    It has a timeline, refusals, keys with what they held before and after, limits, tokens and
    policies in force, and the undo plan; of many events, the first and the last. The page loads
    nothing and runs no script. It shows values of keys, so only you may read the file. Exit code 1,
    and no file, if there is nothing to report.
    """
    is_piped = str(output) == "-"
    if is_piped and settings.json:
        raise UsageError(
            "`--json` and `-o -` both write to standard output",
            help="name a file, or leave one out",
        )
    since_ms, until_ms = time_range(settings, since, until)
    query = Query(correlation=correlation, since_ms=since_ms, until_ms=until_ms)
    client, keyspace = settings.client, settings.keyspace
    names = trail_names(settings, [identity] if identity else ())
    active = read_active(client, keyspace)
    found = gather(
        client,
        keyspace,
        names,
        query,
        server=settings.shown_url,
        identity=identity,
        statuses=identity_statuses(client, keyspace, active, server_time_ms(client))
        if active
        else (),
    )
    if found is None:
        raise nothing_found(settings, "event or refusal", query)
    page = render(found).encode()
    if is_piped:
        click.echo(page, nl=False)
    else:
        # It shows values of keys.
        write_output(output, page, 0o600)
    if settings.json:
        print_json(
            {
                "file": str(output),
                "bytes": len(page),
                "since": iso_time(found.since_ms),
                "until": iso_time(found.until_ms),
                "entries": found.activity.entries,
                "conflicts": None if found.plan is None else len(found.plan.blocked),
            }
        )
        return
    entries = counted(found.activity.entries, "entry")
    where = "on standard output" if is_piped else f"in `{printable(str(output))}`"
    print_note(f"{entries} reported {where}")
