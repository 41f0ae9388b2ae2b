"""`keyleash audit export` and `audit verify`: archives of audit streams."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import click

from keyleash.addons.export.run import Exported, follow_export
from keyleash.addons.export.verify import ArchiveReport, verify_archive
from keyleash.cli.audit_selection import identities_option
from keyleash.cli.derive import options_of
from keyleash.cli.options import DIRECTORY, example, with_settings
from keyleash.cli.progress import progress
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, print_json_line, print_note
from keyleash.errors.operations import FAILED
from keyleash.text import counted, printable


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a signal arrived; a second one ends the program."""
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.command(epilog=example("keyleash audit export --to archive"))
@options_of(follow_export, "directory")
@identities_option
@click.option("--follow", is_flag=True, help="Keep exporting new entries until a signal.")
@options_of(follow_export, "every")
@with_settings
def export(
    settings: Settings, directory: str, identities: tuple[str, ...], follow: bool, every: timedelta
) -> None:
    """Export audit streams to JSON Lines files in DIR: a file per stream and day.

    Without --identity, exports the streams of all identities and the control stream; `audit verify`
    checks them. A later run continues where the last one ended, also after a crash: no entry is
    lost or duplicated. --follow --json prints JSON Lines.
    """
    with stopped_by_signals() as is_stopping:
        arguments: dict[str, Any] = {"is_stopping": is_stopping}
        if follow:
            _follow(settings, directory, *identities, every=every, **arguments)
        else:
            _run(settings, directory, *identities, **arguments)


def _run(settings: Settings, *directory_and_identities: str, **arguments: Any) -> None:
    done: list[Exported] = []
    try:
        with progress("entries", is_wanted=not settings.json) as report:
            result = settings.operator.audit.export(
                *directory_and_identities, **arguments, progress=report, on_export=done.append
            )
    finally:
        for item in done:
            _warn(item)
    if settings.json:
        print_json(result)
    elif done:
        print_table(columns("file", "entries", "to", right={"entries"}), map(_row, done))
    else:
        print_note("there is nothing new")


def _follow(settings: Settings, *directory_and_identities: str, **arguments: Any) -> None:
    found = settings.operator.audit.follow_export(*directory_and_identities, **arguments)
    print_note("exporting; end it with Ctrl-C or SIGTERM")
    for item in found:
        _warn(item)
        if settings.json:
            print_json_line(item)
        else:
            click.echo("  ".join(_row(item)))
    print_note("stopped: the server has the record of what was exported")


def _warn(exported: Exported) -> None:
    for warning in exported.warnings:
        print_note(warning)


def _row(exported: Exported) -> list[str]:
    return [f"{exported.stream}/{exported.file}", str(exported.count), exported.last]


@click.command(epilog=example("keyleash audit verify archive"))
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option(
    "--recorded", is_flag=True, help="Compare the chains with the server's records of the export."
)
@with_settings
def verify(settings: Settings, directory: str, recorded: bool) -> int:
    """Check an archive: every line, the chains, and the sequence numbers.

    Exit code 0 if the archive is valid, else 1. Without --recorded it needs no server; with it,
    it also finds forgeries by a user who could write to DIR.
    """
    if recorded:
        report = settings.operator.audit.verify(directory, recorded=True)
    else:
        report = verify_archive(Path(directory))
    settings.show(report, lambda: _print_report(report))
    return 0 if report.is_valid else FAILED


def _print_report(report: ArchiveReport) -> None:
    if report.streams:
        numbers = ("files", "entries", "found")
        rows = (
            [
                item.stream,
                str(item.files),
                str(item.entries),
                str(len(item.findings) or "ok"),
                item.last,
            ]
            for item in report.streams
        )
        print_table(columns("stream", *numbers, "last", right=numbers), rows)
    else:
        print_note("note: nothing was exported to it yet")
    for stream in report.streams:
        for note in stream.notes:
            print_note(f"note: `{stream.stream}`: {printable(note)}")
    for found in report.findings:
        where = printable("/".join(part for part in (found.stream, found.file) if part))
        print_note(f"{found.kind}: `{where}`: {printable(found.message)}")
    print_note(
        counted(len(report.findings), "finding") if report.findings else "the archive is valid"
    )
