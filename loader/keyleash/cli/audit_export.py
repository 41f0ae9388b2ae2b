"""`keyleash audit export` and `audit verify`: archives of audit streams."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from keyleash.audit.export import (
    Archiver,
    FileFormat,
    locked_archive,
    recorded_by_server,
    verify_archive,
)
from keyleash.cli.load import progress
from keyleash.cli.options import (
    DIRECTORY,
    IDENTITY,
    duration_s,
    example,
    json_option,
)
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_note
from keyleash.store.identities import require_known
from keyleash.text import counted, printable

if TYPE_CHECKING:
    from keyleash.audit.export import Archiver, ArchiveReport, Exported


FAILED = 1


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a signal came; a second signal ends the program."""
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


@click.command(epilog=example("keyleash audit export --to /var/lib/keyleash/trails --follow"))
@click.option(
    "--to",
    "directory",
    metavar="DIR",
    type=DIRECTORY,
    required=True,
    help="The archive; created if there is none.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["jsonl", "parquet"]),
    default="jsonl",
    show_default=True,
    help="Of the files that are added. Parquet needs `keyleash[parquet]`.",
)
@click.option(
    "--identity",
    "identities",
    metavar="NAME",
    multiple=True,
    type=IDENTITY,
    help="Only this one's trails; may be given again.  [default: all, and the control stream]",
)
@click.option("--follow", is_flag=True, help="Keep exporting new entries until a signal.")
@click.option(
    "--every",
    metavar="DURATION",
    default="1m",
    show_default=True,
    callback=duration_s,
    help="With --follow, how often; sooner where a file's worth of entries is waiting.",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="Continue although another archive has these streams, or the server lost them.",
)
@json_option
@pass_settings
def export(
    settings: Settings,
    directory: str,
    file_format: str,
    identities: tuple[str, ...],
    follow: bool,
    every: int,
    take_over: bool,
) -> None:
    """Export audit streams to files in DIR, and acknowledge the written entries.

    Events, refusals and the control stream go to a folder each, with a manifest; `audit
    verify` checks them. Run it again, also after a crash, and it goes on where it was: no
    entry is lost and none is there twice. With --follow and --json, it prints an object a line.
    """
    for name in identities:
        require_known(settings.client, settings.keyspace, name)
    with stopped_by_signals() as is_stopping, locked_archive(Path(directory)) as archive:
        archiver = Archiver(
            settings.client,
            settings.keyspace,
            archive,
            file_format=FileFormat(file_format),
            identities=identities,
            actor=settings.actor,
            take_over=take_over,
            is_stopping=is_stopping,
        )
        if follow:
            _follow(settings, archiver, every)
        else:
            _run(settings, archiver, archive.id)


def _run(settings: Settings, archiver: Archiver, archive_id: str) -> None:
    done: list[Exported] = []
    try:
        with progress("entries", is_wanted=not settings.json) as report:
            for item in archiver.run(lambda count: report(count, None)):
                done.append(item)
    finally:
        for item in done:
            _warn(item)
    files = [item for item in done if item.file is not None]
    if settings.json:
        print_json({"archive": archive_id, "exported": [_exported_json(item) for item in done]})
    elif files:
        print_table([Column("file"), Column("entries", "right"), Column("to")], map(_row, files))
    else:
        print_note("there is nothing new")


def _follow(settings: Settings, archiver: Archiver, every_s: int) -> None:
    print_note("exporting; end it with Ctrl-C or SIGTERM")
    for item in archiver.follow(every_s):
        _warn(item)
        if settings.json:
            click.echo(json.dumps(_exported_json(item)))
        elif item.file is not None:
            click.echo("  ".join(_row(item)))
    print_note("stopped: what was exported is acknowledged")


def _warn(exported: Exported) -> None:
    for found in exported.breaks:
        how = "warning" if found.is_loss else "note"
        print_note(f"{how}: `{exported.stream}`: {found}")
    if exported.lost:
        print_note(
            f"warning: `{exported.stream}`: {counted(exported.lost, 'entry')}"
            " that an earlier run had begun to export were trimmed before this one"
        )
    if exported.known:
        print_note(
            f"warning: `{exported.stream}`: {counted(exported.known, 'entry')}"
            " of the server are not after the last of the archive, and taken for exported"
        )


def _row(exported: Exported) -> list[str]:
    assert exported.file is not None  # noqa: S101 - only what has a file gets here
    return [f"{exported.stream}/{exported.file.name}", str(exported.file.count), exported.file.last]


def _exported_json(exported: Exported) -> dict[str, Any]:
    file = exported.file
    return {
        "trail": exported.stream,
        "file": None if file is None else file.name,
        "first": None if file is None else file.first,
        "last": None if file is None else file.last,
        "count": 0 if file is None else file.count,
        "sha256": None if file is None else file.sha256,
        "chain": None if file is None else file.chain,
        "breaks": [
            {"kind": str(found.kind), "before": found.before, "seq": found.seq, "id": found.id}
            for found in exported.breaks
        ],
        "lost": exported.lost,
        "known": exported.known,
    }


@click.command(epilog=example("keyleash audit verify /var/lib/keyleash/trails"))
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option(
    "--recorded", is_flag=True, help="Compare the chains with those in the server's control stream."
)
@json_option
@pass_settings
def verify(settings: Settings, directory: str, recorded: bool) -> int:
    """Check what was exported to DIR: every file, the chains, and that no number is missing.

    Ends with 0 if all is well, else with 1. Without --recorded it needs no server; with it,
    it finds what somebody forged who could write to DIR.
    """
    marks = recorded_by_server(settings.client, settings.keyspace) if recorded else None
    report = verify_archive(Path(directory), marks)
    if settings.json:
        print_json(_report_json(report))
    else:
        _print_report(report)
    return 0 if report.is_valid else FAILED


def _print_report(report: ArchiveReport) -> None:
    if report.streams:
        columns = [
            Column("trail"),
            *(Column(name, "right") for name in ("files", "entries", "found")),
        ]
        rows = [
            [item.stream, str(item.files), str(item.entries), str(len(item.findings) or "ok")]
            for item in report.streams
        ]
        print_table(
            [*columns, Column("last")],
            [[*row, item.last] for row, item in zip(rows, report.streams, strict=True)],
        )
    else:
        print_note("note: nothing was exported to it yet")
    for stream in report.streams:
        for note in stream.notes:
            print_note(f"note: `{stream.stream}`: {printable(note)}")
    for found in report.findings:
        where = printable("/".join(part for part in (found.stream, found.file) if part))
        print_note(f"{found.kind}: `{where}`: {printable(found.message)}")
    print_note(counted(len(report.findings), "finding") if report.findings else "all is well")


def _report_json(report: ArchiveReport) -> dict[str, Any]:
    return {
        "archive": report.archive,
        "well": report.is_valid,
        "trails": [
            {
                "trail": stream.stream,
                "files": stream.files,
                "entries": stream.entries,
                "first": stream.first or None,
                "last": stream.last or None,
                "chain": stream.chain,
                "notes": list(stream.notes),
            }
            for stream in report.streams
        ],
        "findings": [
            {
                "kind": str(finding.kind),
                "trail": finding.stream or None,
                "file": finding.file or None,
                "message": finding.message,
                "missing": list(finding.missing) if finding.missing else None,
            }
            for finding in report.findings
        ],
    }
