"""`keyleash audit`: what identities did, and what they were refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click

from keyleash.audit.event import AuditEvent, Denial
from keyleash.cli import export
from keyleash.cli.options import example, json_option
from keyleash.cli.output import Column, fits, is_terminal, print_json, print_table, say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.standing import require_known
from keyleash.cli.text import iso_time, json_bytes, printable, without_tokens


@click.group(epilog=example("keyleash audit log agent-runner --limit 20"))
def audit() -> None:
    """Read the trail of what identities did."""


audit.add_command(export.export)
audit.add_command(export.verify)


@audit.command(epilog=example("keyleash audit log agent-runner --limit 20"))
@click.argument("identity", required=False)
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="How many, the newest."
)
@click.option("--denied", is_flag=True, help="What was refused, in place of what was done.")
@json_option
@pass_settings
def log(settings: Settings, identity: str | None, limit: int, denied: bool) -> None:
    """Show the newest mutations of IDENTITY, or of all by time, the oldest of them first."""
    from keyleash.audit import newest, read_denials, read_events

    client, keyspace = settings.client, settings.keyspace
    names = require_known(client, keyspace, identity)
    entries: Sequence[AuditEvent | Denial]
    if denied:
        entries = newest(read_denials(client, keyspace, names, newest_first=True), limit)
    else:
        entries = newest(read_events(client, keyspace, names, newest_first=True), limit)
    if settings.json:
        print_json({"denials" if denied else "events": [_as_json(entry) for entry in entries]})
    elif entries:
        print_trail(entries)
    else:
        say("nothing was refused" if denied else "no mutations")


def print_trail(entries: Iterable[AuditEvent | Denial]) -> None:
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
    ]
    rows = [_row(entry, is_short=day is not None) for entry in entries]
    if fits(columns, rows):
        print_table(columns, rows)
        return
    click.echo(columns[0].name)
    for time, identity, token, op, key, result, correlation in rows:
        click.echo(f"{time}  {identity}  {op} {key}")
        click.echo(f"  {result}  (token {token}, correlation {correlation})")


def _only_day(entries: Sequence[AuditEvent | Denial]) -> str | None:
    days = {iso_time(entry.time_ms).partition("T")[0] for entry in entries}
    return days.pop() if len(days) == 1 else None


def _row(entry: AuditEvent | Denial, *, is_short: bool) -> list[str]:
    time = iso_time(entry.time_ms)
    return [
        time.partition("T")[2].rstrip("Z") if is_short else time,
        entry.identity,
        entry.token,
        without_tokens(printable(entry.op)),
        _shown_keys(entry),
        _result(entry),
        printable(entry.correlation),
    ]


def _shown_keys(entry: AuditEvent | Denial) -> str:
    # A space in a key is not the space between two keys.
    return " ".join(printable(key).replace(" ", "\\x20") for key in entry.keys)


def _result(entry: AuditEvent | Denial) -> str:
    match entry:
        case Denial():
            return printable(entry.code)
        case AuditEvent():
            return "ok" if entry.error is None else printable(entry.error)


def _as_json(entry: AuditEvent | Denial) -> dict[str, Any]:
    said: dict[str, Any] = {
        "id": entry.id,
        "time": iso_time(entry.time_ms),
        "identity": entry.identity,
        "token": entry.token,
        "op": without_tokens(entry.op),
        "keys": [json_bytes(key) for key in entry.keys],
        "correlation": entry.correlation,
        "policy": entry.policy,
    }
    if isinstance(entry, Denial):
        return {**said, "code": entry.code}
    return {**said, **({"item": entry.item} if entry.item else {}), "error": entry.error}
