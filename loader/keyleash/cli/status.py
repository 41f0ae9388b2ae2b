"""`keyleash status`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import chain
from operator import methodcaller
from typing import Any

import click
from redis import exceptions as redis_errors
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from keyleash.cli.failures import FAILED, failure_of
from keyleash.cli.options import IDENTITY, as_duration, example, with_settings
from keyleash.cli.render.status import snapshot_parts
from keyleash.cli.render.table import console, show
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import is_terminal, print_json, print_json_line, print_note, until_signal
from keyleash.errors import KeyleashError
from keyleash.status.snapshot import MEASURES, Snapshot
from keyleash.store.connect import NODE_TIMEOUT_S
from keyleash.text import clock_time


@click.command(epilog=example("keyleash status --watch"))
@click.argument("identities", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)
@click.option("--only", type=click.Choice(list(MEASURES)), help="Only identities that are so.")
@click.option("--sort", type=click.Choice(list(MEASURES)), help="The highest number first.")
@click.option("--limit", type=click.IntRange(1), help="Maximum number of identities.")
@click.option("--watch", is_flag=True, help="Refresh in place until Ctrl-C or SIGTERM.")
@click.option(
    "--interval",
    metavar="DURATION",
    default="2s",
    callback=as_duration,
    help="Refresh interval of --watch.",
)
@with_settings
def status(
    settings: Settings, identities: Sequence[str], watch: bool, interval: timedelta, **options: Any
) -> int:
    """Show identities, tokens, limits and recent denials.

    `suspended` identities have no state or a suspension, `limited` ones a limit that is used up,
    `denied` ones recent denials, `due` ones a token to rotate.

    The use of a budget is the calls in its open window, of a rate those in the last period, and of
    a rate with a burst the part of the burst in use. `oldest` is the age of the oldest live token,
    `due` if it exceeds the policy's `rotate_after`. `events` counts recorded calls; a batch is one,
    and `audit stats` counts commands. `denied` `2+1` is 2 entries and 1 repeat of them. `recent`
    counts the calls denied in the last five minutes.

    Exit code 1 if a node of a cluster does not answer.

    When output is not a terminal, --watch appends snapshots; with --json, one object per line.
    """
    read = methodcaller("status", *identities, **options)
    if watch:
        snapshots = _poll(settings, interval, read)
        first = next(snapshots)
        # On a terminal without cursor movement, `Live` shows nothing before the end.
        is_plain = settings.json or not is_terminal() or console().is_dumb_terminal
        with until_signal("stopped"):
            (_append if is_plain else _redraw)(settings, chain([first], snapshots))
        return 0
    snapshot = read(settings.operator)
    code = FAILED if snapshot.cluster is not None and snapshot.cluster.down else 0
    if settings.json:
        print_json({"server": settings.shown_url, **snapshot.to_dict()})
        return code

    show(*snapshot_parts(settings, snapshot))
    if snapshot.active is None:
        print_note("no policy is active")
        print_note("help: load one with `keyleash load FILE`")
    return code


PASSING = (redis_errors.RedisError, OSError, KeyleashError)
"""Errors that do not end a running watch, since the server may return."""


def _redraw(settings: Settings, snapshots: Iterator[Snapshot | str]) -> None:
    with Live(console=console(), auto_refresh=False, vertical_overflow="ellipsis") as live:
        for item in snapshots:
            if isinstance(item, Snapshot):
                last = item
            live.update(_screen(settings, last, "" if item is last else str(item)), refresh=True)


def _screen(settings: Settings, snapshot: Snapshot, error: str = "") -> RenderableType:
    parts = list(snapshot_parts(settings, snapshot))
    if snapshot.active is None:
        parts.append(Text("no policy is active"))
    at = Text(f"at         {clock_time(snapshot.now_ms)}; end with Ctrl-C", style="dim")
    # The second line: a small terminal shows only the first ones.
    parts.insert(
        1, Text(f"error      {error}; the last snapshot is shown", style="red") if error else at
    )
    return Group(*parts)


def _append(settings: Settings, snapshots: Iterator[Snapshot | str]) -> None:
    for item in snapshots:
        if isinstance(item, str):
            print_note(f"error: {item}")
        elif settings.json:
            print_json_line({"server": settings.shown_url, **item.to_dict()})
        else:
            show(Text(f"at         {clock_time(item.now_ms)}"))
            show(*snapshot_parts(settings, item))
            click.echo("no policy is active\n" if item.active is None else "")
        sys.stdout.flush()


def _poll(settings: Settings, interval: timedelta, read: methodcaller) -> Iterator[Snapshot | str]:
    """Yield a snapshot at each interval, or the error of one but the first."""
    yield read(settings.operator)
    # A server that does not answer must not look like one without changes.
    operator = settings.unconnected(NODE_TIMEOUT_S)
    while True:
        time.sleep(interval.total_seconds())
        try:
            yield read(operator)
        except PASSING as error:
            failure = failure_of(error, settings.shown_url, settings.operation)
            if failure is None:
                raise
            yield failure.message
