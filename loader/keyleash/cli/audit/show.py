"""`keyleash audit show`: everything that is known of one event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click
from redis.exceptions import ResponseError

from keyleash.audit.control import ControlEvent
from keyleash.audit.event import LARGE, AuditEvent, Change, Denial, Image
from keyleash.cli.audit.as_json import entry_as_json
from keyleash.cli.audit.trails import trail_names
from keyleash.cli.options import example, json_lines_option
from keyleash.cli.output import print_json_line
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.text import counted, iso_time, printable, without_tokens
from keyleash.cli.values import UNVALIDATED, short_value, shown_folded

if TYPE_CHECKING:
    from keyleash.audit.undo.values import Images
    from keyleash.cli.audit.selection import AnyEntry

Line = tuple[str, str]


@click.command(epilog=example("keyleash audit show agent-runner/1769860800000-0"))
@click.argument("event")
@json_lines_option
@pass_settings
def show(settings: Settings, event: str) -> None:
    """Show everything that is recorded of EVENT, and of what became of it.

    EVENT is an id, as `audit log` shows it, or `<identity>/<id>` where several trails have that
    id; refusals and what operators did are found as well. JSON has a line for each command of a
    batch, and before-images as DUMP makes them.
    """
    from keyleash.audit import find_event
    from keyleash.audit.undo import Trust

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
    """What the before-images hold; None where the server does not let this user read them."""
    from keyleash.audit.undo.values import read_images

    events = (entry for entry in entries if isinstance(entry, AuditEvent))
    changes = ((event.identity, change.before) for event in events for change in event.changes)
    held = [(name, image.held) for name, image in changes if image and image.held]
    try:
        return read_images(settings.client, settings.keyspace, held) if held else None
    except ResponseError:
        return None


def _head(entry: AnyEntry) -> Iterator[Line]:
    """What all commands of a batch have in common."""
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
                yield "times", f"{entry.repeats}{shown_folded(entry, ', of any {}')}"
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


def _change(change: Change, values: Images | None) -> Iterator[Line]:
    key = printable(change.key)
    yield "before", f"{key}: {_before(change.before, change.large, values)}"
    yield "after", f"{key}: {_after(change)}"


def _before(before: Image | None, large: int, values: Images | None) -> str:
    if before is None:
        return f"not reversible: too large, {counted(large, 'byte')}"
    if before.held is None:
        return "absent"
    value = values.get(before.held) if values else None
    kind, held = before.held
    how = "as DUMP has them" if kind == "image" else "of text"
    shown = short_value(value, 0) if value else f"{counted(len(held), 'byte')} {how}"
    if values and before.held in values.withheld.images:
        shown += f", not restored: {UNVALIDATED}"
    return f"{shown}{_expiry(before.expires_ms)}"


def _after(change: Change) -> str:
    if change.after is None:
        return "not known"
    if change.after == LARGE:
        return "too large to be compared"
    return f"{printable(change.after)}{_expiry(change.after_expires_ms)}"


def _expiry(expires_ms: int | None) -> str:
    return "" if expires_ms is None else f", expires {iso_time(expires_ms)}"
