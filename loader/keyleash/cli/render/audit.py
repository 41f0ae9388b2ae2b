"""Render audit events as tables and blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from keyleash.audit.describe import folded_text
from keyleash.audit.entries import AuditEvent, Denial
from keyleash.audit.lookup import Gap, Restart, with_gaps
from keyleash.audit.operator_actions import ControlEvent
from keyleash.cli.render.table import Column, fits, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import is_terminal, print_json_line, print_note
from keyleash.errors import ReplyCode
from keyleash.text import counted, iso_time, printable, without_tokens

if TYPE_CHECKING:
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
                shown_details(event, MAX_DETAIL),
                event.id,
            ]
            for event in events
        ),
    )


def entry_line(entry: AuditEvent | Denial | ControlEvent) -> str:
    """Return an entry on one line; times are UTC."""
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


MAX_DETAIL = 60
"""Characters of a value in a table of operator actions; `--json` has all."""


def shown_details(event: ControlEvent, most: int | None = None) -> str:
    """Return the details of an operator action as `name=value`, each of up to *most* characters."""
    details = {printable(name): printable(value) for name, value in event.details.items()}
    return " ".join(
        f"{name}={value if most is None or len(value) <= most else value[: most - 1] + '…'}"
        for name, value in details.items()
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


_BY_REASON = frozenset(
    {ReplyCode.DELEGATION_REFUSED, ReplyCode.RENEWAL_REFUSED, ReplyCode.VALUE_REFUSED}
)
"""Codes that need their reason to be understood."""


def _result(entry: AuditEvent | Denial) -> str:
    match entry:
        case Denial():
            if entry.until_ms is not None:
                return f"{printable(entry.code)} itself until {iso_time(entry.until_ms)}"
            times = f" ×{entry.repeats}" if entry.repeats > 1 else ""
            reason = f" ({printable(entry.reason)})" if entry.code in _BY_REASON else ""
            return f"{printable(entry.code)}{reason}{times}{folded_text(entry, ' (also other {})')}"
        case AuditEvent():
            result = "ok" if entry.error is None else printable(entry.error)
            if entry.op == "DELEGATE" and entry.args:
                result += f" (child {printable(entry.args[0])})"
            if entry.script:
                result += f" (script {printable(entry.script)})"
            return f"{result} (untrusted)" if entry.is_untrusted else result


def show_entries(
    settings: Settings,
    entries: Iterable[AnyEntry],
    *,
    gaps: bool = False,
    newest_first: bool = False,
) -> int:
    """Print entries as a table, or as lines of JSON as soon as they are read.

    Args:
        settings: The settings of this run.
        entries: The entries, in the order of the output.
        gaps: Whether missing sequence numbers are reported.
        newest_first: The order of *entries*.

    Returns:
        The number of entries.
    """
    shown: list[Any] = []
    missing: list[Gap | Restart] = []
    count = 0
    found: Iterable[Any] = with_gaps(entries, newest_first=newest_first) if gaps else entries
    for item in found:
        count += not isinstance(item, Gap | Restart)
        if settings.json:
            print_json_line(item)
        else:
            (missing if isinstance(item, Gap | Restart) else shown).append(item)
    if shown:
        print_control(shown) if isinstance(shown[0], ControlEvent) else print_events(shown)
    for gap in missing:
        print_note(str(gap))
    if folded := sum(item.folded_count for item in shown if isinstance(item, Denial)):
        print_note(
            f"{counted(folded, 'repeated denial')} {'is' if folded == 1 else 'are'} counted by `×`,"
            " not listed"
        )
    return count
