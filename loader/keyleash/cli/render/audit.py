"""Render audit events as tables, blocks and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from keyleash.audit.describe import folded_text
from keyleash.audit.entries import AuditEvent, Denial, KeyChange
from keyleash.audit.lookup import Gap, with_gaps
from keyleash.audit.operator_actions import ControlEvent
from keyleash.cli.render.table import Column, fits, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import is_terminal, print_json_line, print_note
from keyleash.store.token import without_tokens
from keyleash.text import clock_time, counted, iso_time, json_bytes, printable

if TYPE_CHECKING:
    from keyleash.audit import Gap
    from keyleash.cli.audit_selection import AnyEntry


def print_events(entries: Iterable[AuditEvent | Denial]) -> None:
    """Print entries as a table or, where a terminal is too narrow for it, as blocks.

    Times are UTC, and short where a person looks at a single day.
    """
    entries = list(entries)
    day = _only_day(entries) if is_terminal() else None
    columns = [
        Column(f"{day} UTC" if day else "time"),
        Column("identity"),
        Column("token"),
        Column("op"),
        Column("key"),
        Column("result"),
        Column("correlation"),
        Column("event"),
    ]
    rows = [_row(entry, is_short=day is not None) for entry in entries]
    if fits(columns, rows):
        print_table(columns, rows)
        return
    click.echo(columns[0].name)
    for time, identity, token, op, key, result, correlation, event in rows:
        click.echo(f"{time}  {identity}  {op} {key}")
        click.echo(f"  {result}  (token {token}, correlation {correlation}, event {event})")


def print_control(events: Iterable[ControlEvent]) -> None:
    """Print operator actions as a table; times are UTC."""
    print_table(
        [
            Column("time"),
            Column("event"),
            Column("actor", fold=True),
            Column("details", fold=True),
            Column("id"),
        ],
        (
            [
                iso_time(event.time_ms),
                printable(event.event),
                printable(event.actor),
                shown_details(event),
                event.id,
            ]
            for event in events
        ),
    )


def entry_line(entry: AuditEvent | Denial | ControlEvent) -> str:
    """An entry on a line, for those that come one by one; times are UTC."""
    if isinstance(entry, ControlEvent):
        return (
            f"{iso_time(entry.time_ms)}  {printable(entry.event)} {shown_details(entry)}"
            f"  (actor {printable(entry.actor)}, event {entry.id})"
        )
    time, identity, token, op, key, result, correlation, event = _row(entry, is_short=False)
    return (
        f"{time}  {identity}  {op} {key}  {result}"
        f"  (token {token}, correlation {correlation}, event {event})"
    )


def shown_details(event: ControlEvent) -> str:
    """What belongs to the event, as `name=value`."""
    return " ".join(
        f"{printable(name)}={printable(value)}" for name, value in event.details.items()
    )


def _only_day(entries: Sequence[AuditEvent | Denial]) -> str | None:
    days = {iso_time(entry.time_ms).partition("T")[0] for entry in entries}
    return days.pop() if len(days) == 1 else None


def _row(entry: AuditEvent | Denial, *, is_short: bool) -> list[str]:
    time = iso_time(entry.time_ms)
    return [
        time.partition("T")[2].rstrip("Z") if is_short else time,
        _who(entry),
        entry.token,
        without_tokens(printable(entry.op)),
        _shown_keys(entry),
        _result(entry),
        printable(entry.correlation),
        entry.id,
    ]


def _who(entry: AuditEvent | Denial) -> str:
    actor = entry.actor if isinstance(entry, AuditEvent) else ""
    return f"{entry.identity} ({printable(actor)})" if actor else entry.identity


def _shown_keys(entry: AuditEvent | Denial) -> str:
    # A space in a key is not the space between two keys.
    return " ".join(printable(key).replace(" ", "\\x20") for key in entry.keys)


def _result(entry: AuditEvent | Denial) -> str:
    match entry:
        case Denial():
            if entry.until_ms is not None:
                return f"{printable(entry.code)} itself until {iso_time(entry.until_ms)}"
            times = f" ×{entry.repeats}" if entry.repeats > 1 else ""
            return f"{printable(entry.code)}{times}{folded_text(entry, ' (any {})')}"
        case AuditEvent():
            result = "ok" if entry.error is None else printable(entry.error)
            return f"{result} (untrusted)" if entry.is_untrusted else result


def entry_as_json(entry: AnyEntry | Gap, *, images: bool = False) -> dict[str, Any]:
    """An entry, or a gap, by its `kind`; with *images*, also what changed keys held."""
    match entry:
        case Gap():
            return _gap(entry)
        case ControlEvent():
            return _control(entry)
        case Denial():
            return {
                **_common(entry),
                "code": entry.code,
                "reason": entry.reason,
                "repeats": entry.repeats,
                "folded": entry.folded or None,
                "any_command": entry.is_any_command,
                **({} if entry.until_ms is None else {"until": iso_time(entry.until_ms)}),
            }
        case AuditEvent():
            return _event(entry, images)


def _common(entry: AuditEvent | Denial) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "id": entry.id,
        "time": iso_time(entry.time_ms),
        "identity": entry.identity,
        "seq": entry.seq,
        "token": entry.token,
        "op": without_tokens(entry.op),
        "keys": [json_bytes(key) for key in entry.keys],
        "correlation": entry.correlation,
        "policy": entry.policy,
    }


def _event(entry: AuditEvent, images: bool) -> dict[str, Any]:
    said = _common(entry)
    if entry.item:
        said["item"] = entry.item
    if entry.actor:
        said["actor"] = entry.actor
    said["cost"] = {str(counter): count for counter, count in entry.cost.items()}
    if entry.lengths is not None:
        said["lengths"] = list(entry.lengths)
    if entry.args_sha1 is not None:
        said["args_sha1"] = entry.args_sha1
    if entry.args is not None:
        said["args"] = [json_bytes(argument) for argument in entry.args]
    if entry.changes:
        said["changes"] = [_change(change, images) for change in entry.changes]
    if entry.is_untrusted:
        said["untrusted"] = True
    return {**said, "error": entry.error}


def _change(change: KeyChange, images: bool) -> dict[str, Any]:
    """`before` is null if it is not kept; what did not exist then says so."""
    said: dict[str, Any] = {"key": json_bytes(change.key), "before": None}
    if change.before is None:
        said["large"] = change.large
    elif change.before.content is None:
        said["before"] = {"exists": False}
    else:
        kind, held = change.before.content
        said["before"] = {
            "exists": True,
            "bytes": len(held),
            "expires_at": _time(change.before.expires_ms),
            **({kind: json_bytes(held)} if images else {}),
        }
    return {**said, "after": change.after, "after_expires_at": _time(change.after_expires_ms)}


def _control(event: ControlEvent) -> dict[str, Any]:
    return {
        "kind": "control",
        "id": event.id,
        "time": iso_time(event.time_ms),
        "event": event.event,
        "actor": event.actor,
        "details": dict(event.details),
    }


def _gap(gap: Gap) -> dict[str, Any]:
    return {
        "kind": "gap",
        "identity": gap.identity,
        "of": gap.kind,
        "first": gap.first,
        "last": gap.last,
        "missing": gap.missing,
        "after": gap.after,
        "before": gap.before,
        "time": iso_time(gap.time_ms),
    }


def _time(time_ms: int | None) -> str | None:
    return None if time_ms is None else iso_time(time_ms)


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
    shown: list[Any] = []
    missing: list[Gap] = []
    count = 0
    told: Iterable[Any] = with_gaps(entries, newest_first=newest_first) if gaps else entries
    for item in told:
        count += not isinstance(item, Gap)
        if settings.json:
            print_json_line(entry_as_json(item))
        else:
            (missing if isinstance(item, Gap) else shown).append(item)
    if shown:
        print_control(shown) if isinstance(shown[0], ControlEvent) else print_events(shown)
    for gap in missing:
        say_gap(gap)
    if folded := sum(item.folded_count for item in shown if isinstance(item, Denial)):
        print_note(
            f"{counted(folded, 'denial')} {'has' if folded == 1 else 'have'} no entry:"
            " `×` counts them with the first of their kind"
        )
    return count


def say_gap(gap: Gap) -> None:
    """Report a gap on standard error."""
    numbers = f"{gap.first}" if gap.missing == 1 else f"{gap.first} to {gap.last}"
    print_note(
        f"gap: {counted(gap.missing, gap.kind)} of {gap.identity} missing before"
        f" {clock_time(gap.time_ms)}: {numbers}"
    )
