"""Render audit events as tables and blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, islice
from typing import Any

import click

from keyleash.audit.entries import AuditEvent, Denial
from keyleash.audit.entry_text import folded_text, reason_of_denial
from keyleash.audit.lookup import Gap, Restart, with_gaps
from keyleash.audit.operator_actions import ControlEvent
from keyleash.audit.read import is_key
from keyleash.cli.render.table import SAMPLED, clipped, columns, fits, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import is_terminal, print_json_line, print_note
from keyleash.policy.problems import FEW
from keyleash.text import counted, iso_time, printable, without_tokens


def print_events(entries: Iterable[AuditEvent | Denial], key: bytes | None = None) -> None:
    """Print entries as a table or, where a terminal is too narrow for it, as blocks.

    Times are UTC, and short where a person looks at a single day. Entries of several keys show
    *key* first.
    """
    entries = iter(entries)
    first = list(islice(entries, SAMPLED))
    day = _only_day(first) if is_terminal() and len(first) < SAMPLED else None
    time_name = f"{day} UTC" if day else "time"
    names = ("identity", "token", "op", "key", "result", "correlation", "event")
    start = [_row(entry, is_short=day is not None, key=key) for entry in first]
    rows = chain(start, (_row(entry, is_short=False, key=key) for entry in entries))
    if fits(shown := columns(time_name, *names), start):
        print_table(shown, rows)
        return
    click.echo(time_name)
    for time, identity, token, op, keys, result, correlation, event in rows:
        click.echo(f"{time}  {identity}  {op} {keys}")
        click.echo(f"  {result}  (token {token}, correlation {correlation}, event {event})")


def print_control(events: Iterable[ControlEvent]) -> None:
    """Print operator actions as a table; times are UTC."""
    names = ("time", "event", "actor", "details", "id")
    rows = (
        [
            iso_time(item.time_ms),
            printable(item.event),
            printable(item.actor),
            shown_details(item),
            item.id,
        ]
        for item in events
    )
    print_table(columns(*names, fold={"actor", "details"}), rows)


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
"""Characters of a value of an operator action; `--json` has all."""


def shown_details(event: ControlEvent) -> str:
    """Return the details of an operator action as `name=value`, each value shortened."""
    details = ((printable(name), printable(value)) for name, value in event.details.items())
    return " ".join(f"{name}={clipped(value, MAX_DETAIL)}" for name, value in details)


def _only_day(entries: Sequence[AuditEvent | Denial]) -> str | None:
    days = {iso_time(entry.time_ms).partition("T")[0] for entry in entries}
    return days.pop() if len(days) == 1 else None


def _row(entry: AuditEvent | Denial, *, is_short: bool, key: bytes | None = None) -> list[str]:
    time = iso_time(entry.time_ms)
    texts = (
        time.partition("T")[2].rstrip("Z") if is_short else time,
        _who(entry),
        entry.token,
        without_tokens(printable(entry.op)),
        _shown_keys(entry, key),
        _result(entry),
        printable(entry.correlation),
        entry.id,
    )
    return [clipped(text) for text in texts]


def _who(entry: AuditEvent | Denial) -> str:
    actor = entry.actor if isinstance(entry, AuditEvent) else ""
    who = f"{entry.identity} ({printable(actor)})" if actor else entry.identity
    return f"{who} from {printable(entry.source)}" if entry.source else who


def _shown_keys(entry: AuditEvent | Denial, key: bytes | None) -> str:
    is_own = is_key(key or b"")
    keys = sorted(entry.keys, key=lambda item: not is_own(item))
    # A space in a key is not the space between two keys.
    shown = [printable(item).replace(" ", "\\x20") for item in keys[: FEW + 1]]
    return f"{shown[0]} and {len(keys) - 1} more" if len(keys) > FEW else " ".join(shown)


def _result(entry: AuditEvent | Denial) -> str:
    match entry:
        case Denial():
            if entry.until_ms is not None:
                return f"{printable(entry.code)} itself until {iso_time(entry.until_ms)}"
            times = f" ×{entry.repeats}" if entry.repeats > 1 else ""
            why = f": {reason.sentence}" if (reason := reason_of_denial(entry)) else ""
            return f"{printable(entry.code)}{times}{folded_text(entry, ' (also other {})')}{why}"
        case AuditEvent():
            result = "ok" if entry.error is None else printable(entry.error)
            if entry.op == "DELEGATE" and entry.args:
                result += f" (child {printable(entry.args[0])})"
            if entry.script:
                result += f" (script {printable(entry.script)})"
            return result


def folded_actions(events: Iterable[ControlEvent]) -> Iterator[ControlEvent]:
    """Yield operator actions; more than `FEW` of one minute that differ in the token become one."""

    def alike(event: ControlEvent) -> object:
        place = event.time_ms // 60_000 if "token" in event.details else event.id
        return place, event.event, event.actor, event.details.get("identity")

    for _, group in groupby(events, alike):
        some = list(group)
        if len(some) <= FEW:
            yield from some
            continue
        common = set.intersection(*({*event.details.items()} for event in some))
        yield replace(some[0], event=f"{some[0].event} ×{len(some)}", details=dict(sorted(common)))


def show_entries(
    settings: Settings,
    entries: Iterable[Any],
    *,
    gaps: bool = False,
    newest_first: bool = False,
    key: bytes | None = None,
) -> int:
    """Print entries as rows or as lines of JSON, as they are read; return their number.

    With *gaps*, missing sequence numbers are reported. Entries of several keys show *key*.
    """
    missing: list[Gap | Restart] = []
    count = folded = 0

    def shown() -> Iterator[Any]:
        nonlocal count, folded
        for item in with_gaps(entries, newest_first=newest_first) if gaps else entries:
            if isinstance(item, Gap | Restart) and not settings.json:
                missing.append(item)
                continue
            count += not isinstance(item, Gap | Restart)
            folded += item.folded_count if isinstance(item, Denial) else 0
            yield item

    rows = shown()
    if settings.json:
        for item in rows:
            print_json_line(item)
        return count
    if (first := next(rows, None)) is not None:
        rows = chain([first], rows)
        print_control(rows) if isinstance(first, ControlEvent) else print_events(rows, key)
    for gap in missing:
        print_note(str(gap))
    if folded:
        print_note(
            f"{counted(folded, 'repeated denial')} {'is' if folded == 1 else 'are'} counted by `×`,"
            " not listed"
        )
    return count
