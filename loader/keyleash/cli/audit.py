"""`keyleash audit`: read the audit streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import click
from redis.exceptions import ResponseError

from keyleash.audit import (
    EVERYTHING,
    Gap,
    Query,
    find_event,
    follow_control,
    follow_denials,
    follow_events,
    merged,
    newest,
    read_denials,
    read_events,
    with_gaps,
)
from keyleash.audit.describe import (
    UNVALIDATED,
    folded_text,
    short_value,
    value_as_json,
    value_lines,
)
from keyleash.audit.entries import LARGE, AuditEvent, BeforeImage, Denial, KeyChange
from keyleash.audit.operator_actions import ControlEvent
from keyleash.audit.point_in_time import value_as_of
from keyleash.audit.undo import Trust
from keyleash.audit.undo.values import read_images
from keyleash.cli.audit_export import export, verify
from keyleash.cli.audit_report import report
from keyleash.cli.audit_selection import (
    EntryKind,
    EventOptions,
    nothing_found,
    resolve_key,
    selecting,
    time_range,
    trail_names,
)
from keyleash.cli.audit_stats import stats
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
from keyleash.cli.render.audit import entry_as_json, entry_line, say_gap, show_entries
from keyleash.cli.render.undo import say_untrusted
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import (
    Ended,
    ended_by_signals,
    print_json,
    print_json_line,
    print_note,
)
from keyleash.store.identities import server_time_ms
from keyleash.store.token import without_tokens
from keyleash.text import clock_time, counted, iso_time, json_bytes, printable

if TYPE_CHECKING:
    from keyleash.audit import Query
    from keyleash.audit.point_in_time import ValueThen
    from keyleash.audit.undo import Value
    from keyleash.audit.undo.values import Images
    from keyleash.cli.audit_selection import AnyEntry


NOTHING = {
    EntryKind.EVENTS: "no mutations",
    EntryKind.DENIALS: "nothing was refused",
    EntryKind.CONTROL: "operators did nothing",
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
def log(settings: Settings, selection: EventOptions, limit: int, oldest_first: bool | None) -> None:
    """Show what identities did, of IDENTITY or of all, by time.

    What a batch did is shown command by command. A gap, where numbers are missing between two
    entries, is told on standard error. Exit code 1 if the options leave nothing.
    """
    query = selection.query(settings)
    if selection.op and selection.kind is EntryKind.DENIALS and not settings.json:
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
@selecting
@json_lines_option
@pass_settings
def follow(settings: Settings, selection: EventOptions) -> None:
    """Show what identities do, of IDENTITY or of all, as it happens.

    Runs until Ctrl-C. With --since, what is recorded from then on comes first. Identities that
    are loaded meanwhile are followed as well. A refusal that is repeated comes again, with its
    number, when its minute is over.
    """
    query = selection.query(settings)
    selection.names(settings)
    if not settings.json:
        print_note("waiting; stop it with Ctrl-C")
    gaps = query.is_time_only and selection.kind is EntryKind.EVENTS
    try:
        with ended_by_signals():
            found: Iterator[Any] = filter(None, _follow(settings, selection, query))
            for item in with_gaps(found) if gaps else found:
                if settings.json:
                    print_json_line(entry_as_json(item))
                elif isinstance(item, Gap):
                    say_gap(item)
                else:
                    click.echo(entry_line(item))
    except Ended:
        pass


def _follow(settings: Settings, selection: EventOptions, query: Query) -> Iterator[AnyEntry | None]:
    where = (settings.client, settings.keyspace)
    match selection.kind:
        case EntryKind.EVENTS:
            return follow_events(*where, lambda: selection.names(settings), query)
        case EntryKind.DENIALS:
            return follow_denials(*where, lambda: selection.names(settings), query)
        case EntryKind.CONTROL:
            return follow_control(*where, selection.identities or None, query)


Line = tuple[str, str]


@click.command(epilog=example("keyleash audit show agent-runner/1769860800000-0"))
@click.argument("event")
@json_lines_option
@pass_settings
def show(settings: Settings, event: str) -> None:
    """Show all that is recorded about EVENT, with its result.

    EVENT is an id, as `audit log` shows it, or `<identity>/<id>` where several trails have that
    id; refusals and what operators did are found as well. JSON has a line for each command of a
    batch, and before-images as DUMP makes them.
    """
    names = trail_names(settings)
    where = (settings.client, settings.keyspace)
    entries = list(Trust.of(*where).marked(find_event(*where, names, event)))
    if settings.json:
        for entry in entries:
            print_json_line(entry_as_json(entry, images=True))
        return
    values = _values(settings, entries)
    lines = [*_head(entries[0])]
    for entry in entries:
        lines += _body(entry, values)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        click.echo(f"{name:<{width}}  {value}".rstrip())


def _values(settings: Settings, entries: Sequence[AnyEntry]) -> Images | None:
    """Return the values of before-images; None if this user must not read them."""
    events = (entry for entry in entries if isinstance(entry, AuditEvent))
    changes = ((event.identity, change.before) for event in events for change in event.changes)
    held = [(name, image.content) for name, image in changes if image and image.content]
    try:
        return read_images(settings.client, settings.keyspace, held) if held else None
    except ResponseError:
        return None


def _head(entry: AnyEntry) -> Iterator[Line]:
    """Yield the lines that all commands of a batch share."""
    yield "event", entry.id
    yield "time", iso_time(entry.time_ms)
    if isinstance(entry, ControlEvent):
        return
    number = f", number {entry.seq}" if entry.seq else ""
    yield "identity", f"{entry.identity}{number}"
    if isinstance(entry, AuditEvent) and entry.actor:
        yield "actor", printable(entry.actor)
    yield "token", printable(entry.token)
    yield "correlation", printable(entry.correlation)
    yield "policy", printable(entry.policy)
    if isinstance(entry, AuditEvent) and entry.cost:
        costs = (counted(count, counter[:-1]) for counter, count in entry.cost.items())
        yield "cost", ", ".join(costs)


def _body(entry: AnyEntry, values: Images | None) -> Iterator[Line]:
    match entry:
        case ControlEvent():
            yield "done", printable(entry.event)
            yield "actor", printable(entry.actor)
            for name, value in entry.details.items():
                yield printable(name), printable(value)
        case Denial():
            yield from _command(entry)
            yield "refused", printable(entry.code)
            if entry.reason:
                yield "reason", printable(entry.reason)
            if entry.until_ms is None:
                yield "times", f"{entry.repeats}{folded_text(entry, ', of any {}')}"
            else:
                yield "suspended", f"itself, until {iso_time(entry.until_ms)}"
        case AuditEvent():
            yield from _command(entry)
            yield from _arguments(entry)
            yield "result", "ok" if entry.error is None else printable(entry.error)
            if entry.is_untrusted:
                yield "untrusted", "no policy of its time grants the identity these keys"
            for change in entry.changes:
                yield from _change(change, values)


def _command(entry: AuditEvent | Denial) -> Iterator[Line]:
    place = f"{entry.item}. " if isinstance(entry, AuditEvent) and entry.item else ""
    yield "operation", place + without_tokens(printable(entry.op))
    for key in entry.keys:
        yield "key", printable(key)


def _arguments(entry: AuditEvent) -> Iterator[Line]:
    if entry.args is not None:
        for argument in entry.args:
            yield "argument", printable(argument)
    if entry.args_sha1 is not None:
        yield "arguments", f"SHA-1 {entry.args_sha1}"
    if entry.lengths is not None:
        yield "arguments", ", ".join(counted(length, "byte") for length in entry.lengths)


def _change(change: KeyChange, values: Images | None) -> Iterator[Line]:
    key = printable(change.key)
    yield "before", f"{key}: {_before(change.before, change.large, values)}"
    yield "after", f"{key}: {_after(change)}"


def _before(before: BeforeImage | None, large: int, values: Images | None) -> str:
    if before is None:
        return f"not reversible: too large, {counted(large, 'byte')}"
    if before.content is None:
        return "absent"
    value = values.get(before.content) if values else None
    kind, held = before.content
    how = "as DUMP has them" if kind == "image" else "of text"
    shown = short_value(value, 0) if value else f"{counted(len(held), 'byte')} {how}"
    if values and before.content in values.withheld.images:
        shown += f", not restored: {UNVALIDATED}"
    return f"{shown}{_expiry(before.expires_ms)}"


def _after(change: KeyChange) -> str:
    if change.after is None:
        return "not known"
    if change.after == LARGE:
        return "too large to be compared"
    return f"{printable(change.after)}{_expiry(change.after_expires_ms)}"


def _expiry(expires_ms: int | None) -> str:
    return "" if expires_ms is None else f", expires {iso_time(expires_ms)}"


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
    since_ms, until_ms = time_range(settings, since, until)
    raw = resolve_key(settings, key)
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
        print_note(f"there is more: these are the newest {limit}")


@click.command("as-of", epilog=example("keyleash audit as-of 10m agents:jobs:42:state"))
@click.argument("time", callback=moment)
@click.argument("key")
@json_option
@pass_settings
def as_of(settings: Settings, time: Moment, key: str) -> None:
    """Print the value of KEY at TIME, from before-images.

    TIME is a duration ago, such as `10m`, or ISO 8601, in UTC if it names no zone. KEY is as it
    is, or as it is printed. The value alone goes to standard output, an element a line. Exit code
    1 where it cannot be told: no image was taken, the trail does not reach back so far, or the
    key was changed outside the guards.
    """
    time_ms = time.at(server_time_ms(settings.client))
    raw = resolve_key(settings, key)
    then = value_as_of(settings.client, raw, time_ms, keyspace=settings.keyspace)
    if settings.json:
        print_json(_as_json(raw, time_ms, then))
        return
    if not then.value.is_absent:
        for line in value_lines(then.value):
            click.echo(line)
    print_note(f"`{printable(raw)}` at {clock_time(time_ms)}: {_described(then)}")
    say_untrusted(then.untrusted)


def _length(value: Value) -> str:
    return counted(value.length, "byte" if value.kind == "string" else "element")


def _described(then: ValueThen) -> str:
    value = then.value
    held = "did not exist" if value.is_absent else f"a {value.kind} of {_length(value)}"
    expires = "" if value.expires_ms is None else f", to expire {clock_time(value.expires_ms)}"
    until = f"until event {then.before.event}" if then.before else "as it is now"
    since = f"since event {then.after.event}" if then.after else "no change before is recorded"
    return f"{held}{expires}; {until}, {since}"


def _as_json(key: bytes, time_ms: int, then: ValueThen) -> dict[str, Any]:
    return {
        "key": json_bytes(key),
        "time": iso_time(time_ms),
        **(value_as_json(then.value, whole=True) or {}),
        "since": then.after.event if then.after else None,
        "until": then.before.event if then.before else None,
        "compared": then.is_compared,
        "untrusted": dict(then.untrusted),
    }


@click.group(cls=Group, epilog=example("keyleash audit log agent-runner --since 10m"))
def audit() -> None:
    """Read the audit log."""


for command in (log, follow, show, timeline, as_of, stats, report, export, verify):
    audit.add_command(command)
