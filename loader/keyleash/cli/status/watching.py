"""A snapshot again and again: in place on a terminal, one after the other elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click
from redis import exceptions as redis_errors
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from keyleash.cli.failures import failure_of
from keyleash.cli.output import console, is_terminal, print_json_line, say, show
from keyleash.cli.server import node_client
from keyleash.cli.settings import Settings
from keyleash.cli.signals import Ended, ended_by_signals
from keyleash.cli.status.as_json import snapshot_as_json
from keyleash.cli.status.showing import snapshot_parts
from keyleash.cli.text import clock_time
from keyleash.errors import KeyleashError
from keyleash.status import Snapshot, read_snapshot

PASSING = (redis_errors.RedisError, OSError, KeyleashError)
"""What does not end a watch that has begun: a server comes back."""


def watch_status(settings: Settings, interval_s: int) -> None:
    """
    Show the server's status until a signal.

    Raises:
        Exception: The first look failed, as that of `keyleash status`.
    """
    first = read_snapshot(settings.client)
    try:
        with ended_by_signals():
            # A terminal on which no cursor moves would show nothing before the end.
            if settings.json or not is_terminal() or console().is_dumb_terminal:
                _one_by_one(settings, first, interval_s)
            else:
                _in_place(settings, first, interval_s)
    except Ended:
        say("stopped")


def _in_place(settings: Settings, first: Snapshot, interval_s: int) -> None:
    last = first
    screen = _screen(settings, first)
    with Live(screen, console=console(), auto_refresh=False, vertical_overflow="ellipsis") as live:

        def show_one(snapshot: Snapshot) -> None:
            nonlocal last
            last = snapshot
            live.update(_screen(settings, snapshot), refresh=True)

        def show_trouble(said: str) -> None:
            live.update(_screen(settings, last, said), refresh=True)

        _look_on(settings, interval_s, show_one, show_trouble)


def _screen(settings: Settings, snapshot: Snapshot, trouble: str = "") -> RenderableType:
    parts = list(snapshot_parts(settings, snapshot))
    if snapshot.active is None:
        parts.append(Text("no policy is active"))
    at = Text(f"at         {clock_time(snapshot.now_ms)}; end with Ctrl-C", style="dim")
    # Below the server's line, which is what a small terminal shows for certain.
    parts.insert(
        1, Text(f"error      {trouble}; shown is what was", style="red") if trouble else at
    )
    return Group(*parts)


def _one_by_one(settings: Settings, first: Snapshot, interval_s: int) -> None:
    def show_one(snapshot: Snapshot) -> None:
        if settings.json:
            print_json_line(snapshot_as_json(settings, snapshot))
        else:
            show(Text(f"at         {clock_time(snapshot.now_ms)}"))
            show(*snapshot_parts(settings, snapshot))
            click.echo("no policy is active\n" if snapshot.active is None else "")
        sys.stdout.flush()

    show_one(first)
    _look_on(settings, interval_s, show_one, lambda said: say(f"error: {said}"))


def _look_on(
    settings: Settings,
    interval_s: int,
    show_one: Callable[[Snapshot], None],
    show_trouble: Callable[[str], None],
) -> None:
    # A server that says nothing must not look like one where nothing changes.
    client = node_client(settings.url, settings.url, timeout_s=settings.timeout_s)
    while True:
        time.sleep(interval_s)
        try:
            snapshot = read_snapshot(client)
        except PASSING as error:
            failure = failure_of(error, settings.shown_url)
            if failure is None:
                raise
            show_trouble(failure.message)
        else:
            show_one(snapshot)
