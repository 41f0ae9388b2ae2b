"""`keyleash audit`: read the audit streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from keyleash.audit.entry_text import value_lines
from keyleash.audit.inspect import read_timeline
from keyleash.audit.log import denials
from keyleash.audit.lookup import Gap, Restart, with_gaps
from keyleash.audit.point_in_time import ValueThen, value_at
from keyleash.audit.stats import Tally, read_stats
from keyleash.audit.undo.key_plans import plan_selected
from keyleash.cli.audit_export import export, verify
from keyleash.cli.audit_selection import (
    EntryKind,
    Selection,
    identities_argument,
    identities_option,
    no_entry,
    selection_options,
)
from keyleash.cli.derive import command, options_of
from keyleash.cli.nodes import MissingNodes
from keyleash.cli.options import Group, all_option, example, json_lines_option, with_settings
from keyleash.cli.progress import waiting
from keyleash.cli.render.audit import entry_line, folded_actions, show_entries
from keyleash.cli.render.table import Column, columns, fitting, print_table, table
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import (
    print_json,
    print_json_line,
    print_note,
    until_signal,
    write_output,
)
from keyleash.errors import UsageError
from keyleash.text import clock_time, counted, printable, without_tokens


@click.command(epilog=example("keyleash audit log agent-runner --since 10m --key 'agents:jobs:*'"))
@selection_options
@options_of(denials, "meta until")
@click.option("--limit", type=click.IntRange(1), default=50, help="Maximum number of entries.")
@click.option(
    "--oldest-first/--newest-first",
    default=None,
    help="Which end to begin at.  [default: the newest entries, printed oldest first]",
)
@json_lines_option
def log(settings: Settings, *, limit: int, oldest_first: bool | None, **options: Any) -> int:
    """Show the events of IDENTITY, or of all identities, by time.

    A batch is shown command by command. Gaps in the sequence numbers are reported on standard
    error. Exit code 1 if the options select no entry, or a node of a cluster does not answer, whose
    events are left out.
    """
    selection = Selection.of(**options)
    if "op" in selection.filters and selection.kind is EntryKind.DENIALS and not settings.json:
        print_note("note: `--op` misses denials counted in an entry of another command (`×N`)")
    missing = MissingNodes()
    found: Iterator[Any] = selection.read(settings, missing, newest_first=not oldest_first)
    if selection.kind is EntryKind.CONTROL and not settings.json:
        found = folded_actions(found)
    chosen: Iterable[Any] = islice(found, limit)
    if oldest_first is None:
        with waiting(settings):
            chosen = [*chosen][::-1]
    shown = show_entries(
        settings, chosen, newest_first=oldest_first is False, gaps=selection.has_gaps
    )
    if shown and next(found, None) is not None:
        print_note(f"there is more: these are the {'oldest' if oldest_first else 'newest'} {limit}")
    if not shown and selection.filters:
        ancestor = selection.filters.get("delegated_from")
        named = f"`keyleash token tree {ancestor}`: reads have no events" if ancestor else None
        what = f"{selection.kind} matches"
        raise no_entry(settings, what, selection.filters, named=named)
    if not shown and not settings.json:
        print_note(f"no {selection.kind}s")
    return missing.exit_code


@click.command(epilog=example("keyleash audit follow --denied --json | jq .code"))
@selection_options
@json_lines_option
def follow(settings: Settings, **options: Any) -> None:
    """Show the events of IDENTITY, or of all identities, as they are recorded.

    Runs until Ctrl-C. With --since, starts with the entries recorded since then. Identities that
    are loaded meanwhile are followed as well. A repeated denial is shown again, with its count,
    at the end of its minute.
    """
    selection = Selection.of(**options)
    found: Iterator[Any] = selection.follow(settings)
    if not settings.json:
        print_note("waiting; stop it with Ctrl-C")
    gaps = selection.has_gaps and selection.kind is EntryKind.EVENTS
    with until_signal():
        for item in with_gaps(found) if gaps else found:
            if settings.json:
                print_json_line(item)
            elif isinstance(item, Gap | Restart):
                print_note(str(item))
            else:
                click.echo(entry_line(item))


@click.command(epilog=example("keyleash audit show agent-runner/1769860800000-0"))
@click.argument("event")
@json_lines_option
@pass_settings
def show(settings: Settings, event: str) -> None:
    """Show all that is recorded about EVENT, with its result.

    EVENT is an id, as in `audit log`, or `<identity>/<id>` if several streams have that id; ids of
    denials and operator actions work as well. JSON has a line for each command of a batch, and
    before-images in the format of DUMP.
    """
    found = settings.operator.audit.find(event, values=not settings.json)
    if settings.json:
        for row in found.rows():
            print_json_line(row)
        return
    click.echo(str(found))


@click.command(epilog=example("keyleash audit timeline agents:jobs:42:state --since 1h"))
@options_of(read_timeline, "key since until limit")
@json_lines_option
@pass_settings
def timeline(settings: Settings, key: str, limit: int | None, **times: str | None) -> int:
    """Show the history of KEY: the events and denials of all identities, and undos.

    KEY is literal, or escaped as in the output. The oldest entry comes first. Entries in which the
    key is masked are found as well. Exit code 1 if there are none, or a node of a cluster does not
    answer, whose events are left out.
    """
    missing = MissingNodes()
    with waiting(settings):
        found = settings.operator.audit.timeline(key, limit=limit, on_missing=missing.note, **times)
    show_entries(settings, found.entries, key=found.key)
    if not found.entries:
        what = f"event or denial of `{printable(found.key)}`"
        named = "the name of the key (for a pattern: `audit log --key`)"
        raise no_entry(settings, what, times, named=named)
    if found.is_more:
        print_note(f"there is more: these are the newest {limit}")
    return missing.exit_code


@command(value_at, example="keyleash audit as-of 10m agents:jobs:42:state", options="time key")
def as_of(_settings: Settings, then: ValueThen) -> None:
    """Print the value that a key had at a time, from before-images.

    TIME is a duration ago, such as `10m`, or ISO 8601 (UTC by default). KEY is literal, or escaped
    as in the output. Standard output has the value alone, one element a line. Exit code 1 if the
    value is unknown: there is no before-image, the audit stream does not reach back so far, or the
    key was changed outside of guards.
    """
    if not then.value.is_absent:
        for line in value_lines(then.value):
            click.echo(line)
    print_note(str(then))


@click.command(epilog=example("keyleash audit stats --since 1h"))
@identities_argument
@identities_option
@options_of(read_stats, "since until segments")
@click.option("--top", type=click.IntRange(1), help="Rows of each table, not one screen.")
@all_option
@json_lines_option
@pass_settings
def stats(
    settings: Settings,
    named: tuple[str, ...],
    identities: tuple[str, ...],
    segments: int,
    top: int | None,
    every: bool,
    **times: str | None,
) -> int:
    """Count events and denials by identity, operation, key prefix and reply code.

    Reads whole audit streams; trimmed entries are not counted. JSON has every row. Exit code 1 if
    there is nothing between --since and --until, or a node of a cluster does not answer, whose
    events are left out.
    """
    missing = MissingNodes()
    with waiting(settings):
        found = settings.operator.audit.stats(
            *named, *identities, segments=segments, on_missing=missing.note, **times
        )
    if found.first_ms is None and any(times.values()):
        raise no_entry(settings, "event or denial", times)
    if settings.json:
        for row in found.rows():
            print_json_line(row)
        return missing.exit_code
    if found.first_ms is None:
        print_note("no events and no denials")
    else:
        click.echo(f"from {clock_time(found.first_ms)} to {clock_time(found.last_ms or 0)}")
        tables = {kind: tallies for kind, tallies in found.tables.items() if tallies}
        most = max(map(len, tables.values()))
        if not every:
            most = top or fitting(
                20,
                lambda count: (table(*_tallies(*item, count)) for item in tables.items()),
                # The first line, a blank one for each table, the notes and the prompt.
                3 + len(tables) + len(found.gaps),
            )
        for item in tables.items():
            click.echo()
            print_table(*_tallies(*item, most))
        if left := [f"{len(x) - most} of {kind}" for kind, x in tables.items() if x[most:]]:
            print_note(f"and more rows, {', '.join(left)}: `--all` shows each")
    for gap in found.gaps:
        print_note(str(gap))
    return missing.exit_code


def _tallies(
    kind: str, tallies: list[tuple[str | bytes, Tally]], most: int
) -> tuple[list[Column], Iterator[list[str]]]:
    counts = ("events", "failed", "denied")
    rows = (
        [without_tokens(printable(name)) or "(none)", *(str(getattr(tally, x)) for x in counts)]
        for name, tally in tallies[:most]
    )
    return columns(kind, *counts, right=counts, fold={kind}), rows


@click.command(epilog=example("keyleash audit report --since 1h -o report.html"))
# Those of `incident_report` are the same, and its import makes the help of `audit` slower.
@options_of(plan_selected, "since until identity correlation")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The page; an existing file is replaced. `-` is standard output.",
)
@with_settings
def report(settings: Settings, output: Path, **filters: Any) -> None:
    """Write an incident report of a time range as one HTML page.

    It has a timeline, denials, keys with their values before and after, limits, tokens and
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
    with waiting(settings):
        found = settings.operator.audit.report(server=settings.shown_url, **filters)
    page = found.html.encode()
    if is_piped:
        click.echo(page, nl=False)
    else:
        # It shows values of keys.
        write_output(output, page, 0o600)
    if settings.json:
        print_json({"file": str(output), "bytes": len(page), **found.to_dict()})
        return
    entries = counted(found.activity.entries, "entry")
    where = "on standard output" if is_piped else f"in `{printable(str(output))}`"
    print_note(f"{entries} reported {where}")


@click.group(cls=Group, epilog=example("keyleash audit log agent-runner --since 10m"))
def audit() -> None:
    """Read the audit log."""


for item in (log, follow, show, timeline, as_of, stats, report, export, verify):
    audit.add_command(item)
