"""`keyleash audit stats`: the audit log in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from keyleash.audit import EVERYTHING, Gap, Query, Stats, read_denials, read_events, with_gaps
from keyleash.cli.audit_selection import nothing_found, time_range, trail_names
from keyleash.cli.options import (
    IDENTITY,
    Moment,
    example,
    json_lines_option,
    since_option,
    until_option,
)
from keyleash.cli.render.audit import entry_as_json, say_gap
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json_line, print_note
from keyleash.store.token import without_tokens
from keyleash.text import clock_time, counted, json_bytes, printable

if TYPE_CHECKING:
    from keyleash.audit import AuditEvent, Denial, Gap, Query, Stats
    from keyleash.audit.stats import Tally


@click.command(epilog=example("keyleash audit stats --since 1h"))
@click.argument("named", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)
@click.option(
    "--identity", "identities", metavar="NAME", multiple=True, type=IDENTITY, help="Whose; repeat."
)
@since_option
@until_option
@click.option(
    "--segments",
    type=click.IntRange(1, 16),
    default=2,
    show_default=True,
    help="How many segments of a key make its prefix.",
)
@click.option(
    "--top", type=click.IntRange(1), default=20, show_default=True, help="Rows of each table."
)
@json_lines_option
@pass_settings
def stats(
    settings: Settings,
    named: tuple[str, ...],
    identities: tuple[str, ...],
    since: Moment | None,
    until: Moment | None,
    segments: int,
    top: int,
) -> None:
    """Count events and refusals by identity, operation, prefix of keys and reply code.

    Reads all of the trails, so what was trimmed is not in the numbers. JSON has every row. Exit
    code 1 if there is nothing between --since and --until.
    """
    since_ms, until_ms = time_range(settings, since, until)
    query = Query(since_ms=since_ms, until_ms=until_ms)
    names = trail_names(settings, list(dict.fromkeys([*named, *identities])))
    found, gaps = _count(settings, names, query, segments)
    if found.first_ms is None and query != EVERYTHING:
        raise nothing_found(settings, "event or refusal", query)
    if settings.json:
        for line in (*_json_rows(found), *map(entry_as_json, gaps)):
            print_json_line(line)
        return
    if found.first_ms is None:
        print_note("no events and no refusals")
    else:
        _print_tables(found, top)
    for gap in gaps:
        say_gap(gap)


def _count(
    settings: Settings, names: list[str], query: Query, segments: int
) -> tuple[Stats, list[Gap]]:

    found, gaps = Stats(), []
    where = (settings.client, settings.keyspace)
    streams: tuple[Iterator[AuditEvent | Denial], ...] = (
        read_events(*where, names, query),
        read_denials(*where, names, query),
    )
    for stream in streams:
        for gap in with_gaps(stream):
            if isinstance(gap, Gap):
                gaps.append(gap)
            else:
                found.add(gap, segments)
    return found, gaps


def _json_rows(found: Stats) -> Iterator[dict[str, Any]]:
    for kind, name, tally in _rows(found):
        shown = json_bytes(name) if isinstance(name, bytes) else without_tokens(name)
        yield {
            "kind": kind,
            kind: shown,
            "events": tally.events,
            "failed": tally.failed,
            "refused": tally.denied,
        }


def _rows(found: Stats) -> Iterator[tuple[str, str | bytes, Tally]]:
    tables: dict[str, Mapping[Any, Tally]] = {
        "identity": found.identities,
        "op": found.ops,
        "prefix": found.prefixes,
        "code": found.codes,
    }
    for kind, tallies in tables.items():
        for name, tally in sorted(tallies.items(), key=lambda row: (-row[1].total, row[0])):
            yield kind, name, tally


def _print_tables(found: Stats, top: int) -> None:
    first_ms, last_ms = found.first_ms or 0, found.last_ms or 0
    click.echo(f"from {clock_time(first_ms)} to {clock_time(last_ms)}")
    rows = list(_rows(found))
    for kind in dict.fromkeys(kind for kind, _, _ in rows):
        mine = [row for row in rows if row[0] == kind]
        click.echo()
        print_table(
            [
                Column(kind, fold=True),
                Column("events", "right"),
                Column("failed", "right"),
                Column("refused", "right"),
            ],
            (
                [_shown(name), str(tally.events), str(tally.failed), str(tally.denied)]
                for _, name, tally in mine[:top]
            ),
        )
        if len(mine) > top:
            print_note(f"{counted(len(mine) - top, 'row')} more: see --top")


def _shown(name: str | bytes) -> str:
    return without_tokens(printable(name)) or "(none)"
