"""`keyleash audit`: read the audit streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyleash.audit import (
    EVERYTHING,
    Gap,
    Query,
    Stats,
    find_event,
    merged,
    newest,
    read_denials,
    read_events,
    with_gaps,
)
from keyleash.audit.describe import value_as_json, value_lines
from keyleash.audit.point_in_time import value_as_of
from keyleash.audit.report.html import gather, render
from keyleash.audit.streams import stream_names
from keyleash.audit.undo import Trust
from keyleash.cli.audit_export import export, verify
from keyleash.cli.audit_selection import (
    EntryKind,
    Selection,
    correlation_option,
    identities_argument,
    identities_option,
    identity_option,
    nothing_found,
    resolve_key,
    selection_options,
    time_range,
)
from keyleash.cli.options import (
    Group,
    Moment,
    example,
    json_lines_option,
    json_option,
    moment,
    since_option,
    until_option,
)
from keyleash.cli.render.audit import (
    entry_as_json,
    entry_line,
    entry_lines,
    say_gap,
    show_entries,
)
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.render.undo import say_untrusted
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import (
    Ended,
    ended_by_signals,
    print_json,
    print_json_line,
    print_note,
    write_output,
)
from keyleash.errors import UsageError
from keyleash.status import identity_statuses
from keyleash.store.records import read_active
from keyleash.text import (
    clock_time,
    counted,
    iso_time,
    json_bytes,
    json_object,
    printable,
    without_tokens,
)

if TYPE_CHECKING:
    from keyleash.audit.point_in_time import ValueThen
    from keyleash.audit.stats import Tally


NOTHING = {
    EntryKind.EVENTS: "no mutations",
    EntryKind.DENIALS: "no denials",
    EntryKind.CONTROL: "no operator actions",
}


@click.command(epilog=example("keyleash audit log agent-runner --since 10m --key 'agents:jobs:*'"))
@selection_options
@until_option
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Maximum number of entries.",
)
@click.option(
    "--oldest-first/--newest-first",
    default=None,
    help="The order.  [default: the newest entries, of these the oldest first]",
)
@json_lines_option
@pass_settings
def log(settings: Settings, selection: Selection, limit: int, oldest_first: bool | None) -> None:
    """Show the events of IDENTITY, or of all identities, by time.

    A batch is shown command by command. Gaps in the sequence numbers are reported on standard
    error. Exit code 1 if the options select no entry.
    """
    query = selection.query(settings)
    if query.op and selection.kind is EntryKind.DENIALS and not settings.json:
        print_note("note: `--op` misses denials counted in an entry of another command (`×N`)")
    found = selection.read(settings, query, newest_first=not oldest_first)
    chosen = islice(found, limit)
    shown = show_entries(
        settings,
        list(chosen)[::-1] if oldest_first is None else chosen,
        newest_first=oldest_first is False,
        gaps=query.is_time_only and selection.kind is not EntryKind.CONTROL,
    )
    if shown and next(found, None) is not None:
        print_note(f"there is more: these are the {'oldest' if oldest_first else 'newest'} {limit}")
    if not shown and query != EVERYTHING:
        raise nothing_found(settings, f"such {selection.kind}", query)
    if not shown and not settings.json:
        print_note(NOTHING[selection.kind])


@click.command(epilog=example("keyleash audit follow --denied --json | jq .code"))
@selection_options
@json_lines_option
@pass_settings
def follow(settings: Settings, selection: Selection) -> None:
    """Show the events of IDENTITY, or of all identities, as they are recorded.

    Runs until Ctrl-C. With --since, starts with the entries recorded since then. Identities that
    are loaded meanwhile are followed as well. A repeated denial is shown again, with its count,
    at the end of its minute.
    """
    query = selection.query(settings)
    selection.names(settings)
    if not settings.json:
        print_note("waiting; stop it with Ctrl-C")
    gaps = query.is_time_only and selection.kind is EntryKind.EVENTS
    try:
        with ended_by_signals():
            found: Iterator[Any] = filter(None, selection.follow(settings, query))
            for item in with_gaps(found) if gaps else found:
                if settings.json:
                    print_json_line(entry_as_json(item))
                elif isinstance(item, Gap):
                    say_gap(item)
                else:
                    click.echo(entry_line(item))
    except Ended:
        pass


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
    names = stream_names(settings.store)
    store = settings.store
    entries = list(Trust.of(store).marked(find_event(store, names, event)))
    if settings.json:
        for entry in entries:
            print_json_line(entry_as_json(entry, images=True))
        return
    lines = list(entry_lines(settings, entries))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        click.echo(f"{name:<{width}}  {value}".rstrip())


@click.command(epilog=example("keyleash audit timeline agents:jobs:42:state --since 1h"))
@click.argument("key")
@since_option
@until_option
@click.option(
    "--limit",
    type=click.IntRange(1),
    help="Maximum number of entries, the newest.  [default: all]",
)
@json_lines_option
@pass_settings
def timeline(
    settings: Settings, key: str, since: Moment | None, until: Moment | None, limit: int | None
) -> None:
    """Show the history of KEY: the events and denials of all identities, and undos.

    KEY is literal, or escaped as in the output. The oldest entry comes first. Entries in which the
    key is masked are found as well; untrusted events are left out, and counted at the end. Exit
    code 1 if there are none.
    """
    since_ms, until_ms = time_range(settings, since, until)
    raw = resolve_key(settings, key)
    query = Query(key=raw, since_ms=since_ms, until_ms=until_ms)
    store = settings.store
    trust = Trust.of(store, [raw])
    names = stream_names(settings.store)
    backwards = limit is not None
    found: Iterator[Any] = merged(
        [
            filter(trust.is_trusted, read_events(store, names, query, newest_first=backwards)),
            read_denials(store, names, query, newest_first=backwards),
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
        raise nothing_found(settings, f"event or denial of `{printable(raw)}`", query)
    if next(islice(found, 1), None) is not None:
        print_note(f"there is more: these are the newest {limit}")


@click.command("as-of", epilog=example("keyleash audit as-of 10m agents:jobs:42:state"))
@click.argument("time", callback=moment)
@click.argument("key")
@json_option
@pass_settings
def as_of(settings: Settings, time: Moment, key: str) -> None:
    """Print the value of KEY at TIME, from before-images.

    TIME is a duration ago, such as `10m`, or ISO 8601 (UTC by default). KEY is literal, or escaped
    as in the output. Standard output has the value alone, one element a line. Exit code 1 if the
    value is unknown: there is no before-image, the audit stream does not reach back so far, or the
    key was changed outside of guards.
    """
    time_ms = time.at(settings.store.now_ms())
    raw = resolve_key(settings, key)
    then = value_as_of(settings.store, raw, time_ms)
    if settings.json:
        print_json(
            {
                "key": json_bytes(raw),
                "time": iso_time(time_ms),
                **(value_as_json(then.value, whole=True) or {}),
                "since": then.after.event if then.after else None,
                "until": then.before.event if then.before else None,
                **json_object(then, "compared=is_compared", "untrusted"),
            }
        )
        return
    if not then.value.is_absent:
        for line in value_lines(then.value):
            click.echo(line)
    print_note(f"`{printable(raw)}` at {clock_time(time_ms)}: {_described(then)}")
    say_untrusted(then.untrusted)


def _described(then: ValueThen) -> str:
    value = then.value
    length = counted(value.length, "byte" if value.kind == "string" else "element")
    found = "did not exist" if value.is_absent else f"a {value.kind} of {length}"
    expires = "" if value.expires_ms is None else f", to expire {clock_time(value.expires_ms)}"
    until = f"until event {then.before.event}" if then.before else "as it is now"
    since = f"since event {then.after.event}" if then.after else "no earlier change is recorded"
    return f"{found}{expires}; {until}, {since}"


@click.command(epilog=example("keyleash audit stats --since 1h"))
@identities_argument
@identities_option
@since_option
@until_option
@click.option(
    "--segments",
    type=click.IntRange(1, 16),
    default=2,
    show_default=True,
    help="Number of segments in a key prefix.",
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
    """Count events and denials by identity, operation, key prefix and reply code.

    Reads whole audit streams; trimmed entries are not counted. JSON has every row. Exit code 1 if
    there is nothing between --since and --until.
    """
    since_ms, until_ms = time_range(settings, since, until)
    query = Query(since_ms=since_ms, until_ms=until_ms)
    where = (settings.store, stream_names(settings.store, [*named, *identities]))
    found, gaps = Stats(), []
    events, denials = read_events(*where, query), read_denials(*where, query)
    for entry in chain(with_gaps(events), with_gaps(denials)):
        if isinstance(entry, Gap):
            gaps.append(entry)
        else:
            found.add(entry, segments)
    if found.first_ms is None and query != EVERYTHING:
        raise nothing_found(settings, "event or denial", query)
    tables: dict[str, Mapping[Any, Tally]] = {
        "identity": found.identities,
        "op": found.ops,
        "prefix": found.prefixes,
        "code": found.codes,
    }
    rows = {
        kind: sorted(tallies.items(), key=lambda row: (-row[1].total, row[0]))
        for kind, tallies in tables.items()
    }
    if settings.json:
        for kind, tallies in rows.items():
            for name, tally in tallies:
                shown = json_bytes(name) if isinstance(name, bytes) else without_tokens(name)
                counts = json_object(tally, "events", "failed", "denied")
                print_json_line({"kind": kind, kind: shown, **counts})
        for gap in gaps:
            print_json_line(entry_as_json(gap))
        return
    if found.first_ms is None:
        print_note("no events and no denials")
    else:
        click.echo(f"from {clock_time(found.first_ms)} to {clock_time(found.last_ms or 0)}")
        for kind, tallies in rows.items():
            _print_tallies(kind, tallies, top)
    for gap in gaps:
        say_gap(gap)


def _print_tallies(kind: str, tallies: list[tuple[str | bytes, Tally]], top: int) -> None:
    if not tallies:
        return
    click.echo()
    counts = (Column(name, "right") for name in ("events", "failed", "denied"))
    print_table(
        [Column(kind, fold=True), *counts],
        (
            [
                without_tokens(printable(name)) or "(none)",
                str(tally.events),
                str(tally.failed),
                str(tally.denied),
            ]
            for name, tally in tallies[:top]
        ),
    )
    if len(tallies) > top:
        print_note(f"{counted(len(tallies) - top, 'row')} more: see --top")


@click.command(epilog=example("keyleash audit report --since 1h -o report.html"))
@since_option
@until_option
@identity_option
@correlation_option
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The page; an existing file is replaced. `-` is standard output.",
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
    since_ms, until_ms = time_range(settings, since, until)
    query = Query(correlation=correlation, since_ms=since_ms, until_ms=until_ms)
    store = settings.store
    names = stream_names(settings.store, [identity] if identity else ())
    active = read_active(store)
    found = gather(
        store,
        names,
        query,
        server=settings.shown_url,
        identity=identity,
        statuses=identity_statuses(store, active, store.now_ms()) if active else (),
    )
    if found is None:
        raise nothing_found(settings, "event or denial", query)
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
                **json_object(found, "since_ms", "until_ms"),
                "entries": found.activity.entries,
                "conflicts": None if found.plan is None else len(found.plan.blocked),
            }
        )
        return
    entries = counted(found.activity.entries, "entry")
    where = "on standard output" if is_piped else f"in `{printable(str(output))}`"
    print_note(f"{entries} reported {where}")


@click.group(cls=Group, epilog=example("keyleash audit log agent-runner --since 10m"))
def audit() -> None:
    """Read the audit log."""


for command in (log, follow, show, timeline, as_of, stats, report, export, verify):
    audit.add_command(command)
