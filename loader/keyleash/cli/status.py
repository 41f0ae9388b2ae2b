"""`keyleash status`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click
from redis import exceptions as redis_errors
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from keyleash.cli.failures import FAILED, failure_of
from keyleash.cli.options import duration_s, example, json_option
from keyleash.cli.render.status import snapshot_parts
from keyleash.cli.render.table import console, show
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import (
    Ended,
    ended_by_signals,
    is_terminal,
    print_json,
    print_json_line,
    print_note,
)
from keyleash.errors import KeyleashError
from keyleash.status import Snapshot
from keyleash.store.connect import NODE_TIMEOUT_S
from keyleash.text import clock_time


@click.command(epilog=example("keyleash status --watch"))
@click.option("--watch", is_flag=True, help="Refresh in place until Ctrl-C or SIGTERM.")
@click.option(
    "--interval",
    "interval_s",
    metavar="DURATION",
    default="2s",
    show_default=True,
    callback=duration_s,
    help="Refresh interval of --watch.",
)
@json_option
@pass_settings
def status(settings: Settings, watch: bool, interval_s: int) -> int:
    """Show identities, tokens, limits and recent denials.

    The use of a budget is the calls in its open window, of a rate those in the last period, and of
    a rate with a burst the part of the burst in use. `oldest` is the age of the oldest live token,
    `due` if it exceeds the policy's `rotate_after`. `audited` and `denied` are lengths of streams;
    after a `+`, denials counted without an entry of their own. `recent` counts the calls denied in
    the last five minutes.

    Exit code 1 if a node of a cluster does not answer.

    When output is not a terminal, --watch appends snapshots; with --json, one object per line.
    """
    if watch:
        watch_status(settings, interval_s)
        return 0
    snapshot = settings.operator.status()
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


def watch_status(settings: Settings, interval_s: int) -> None:
    """
    Show the server's status until a signal.

    Raises:
        Exception: The first snapshot cannot be read, as without --watch.
    """
    first = settings.operator.status()
    try:
        with ended_by_signals():
            # On a terminal without cursor movement, `Live` shows nothing before the end.
            if settings.json or not is_terminal() or console().is_dumb_terminal:
                _append(settings, first, interval_s)
            else:
                _redraw(settings, first, interval_s)
    except Ended:
        print_note("stopped")


def _redraw(settings: Settings, first: Snapshot, interval_s: int) -> None:
    last = first
    screen = _screen(settings, first)
    with Live(screen, console=console(), auto_refresh=False, vertical_overflow="ellipsis") as live:

        def show_snapshot(snapshot: Snapshot) -> None:
            nonlocal last
            last = snapshot
            live.update(_screen(settings, snapshot), refresh=True)

        def show_error(message: str) -> None:
            live.update(_screen(settings, last, message), refresh=True)

        _poll(settings, interval_s, show_snapshot, show_error)


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


def _append(settings: Settings, first: Snapshot, interval_s: int) -> None:
    def show_snapshot(snapshot: Snapshot) -> None:
        if settings.json:
            print_json_line({"server": settings.shown_url, **snapshot.to_dict()})
        else:
            show(Text(f"at         {clock_time(snapshot.now_ms)}"))
            show(*snapshot_parts(settings, snapshot))
            click.echo("no policy is active\n" if snapshot.active is None else "")
        sys.stdout.flush()

    show_snapshot(first)
    _poll(settings, interval_s, show_snapshot, lambda message: print_note(f"error: {message}"))


def _poll(
    settings: Settings,
    interval_s: int,
    show_snapshot: Callable[[Snapshot], None],
    show_error: Callable[[str], None],
) -> None:
    # A server that does not answer must not look like one without changes.
    operator = settings.unconnected(NODE_TIMEOUT_S)
    while True:
        time.sleep(interval_s)
        try:
            snapshot = operator.status()
        except PASSING as error:
            failure = failure_of(error, settings.shown_url, settings.operation)
            if failure is None:
                raise
            show_error(failure.message)
        else:
            show_snapshot(snapshot)
