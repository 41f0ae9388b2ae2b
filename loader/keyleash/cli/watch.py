"""`keyleash watch`: load missing guards on every server, and report drift."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from redis import exceptions as redis_errors

from keyleash.cli.failures import FAILED, UNREACHABLE
from keyleash.cli.nodes import node_connector, urls_option
from keyleash.cli.options import duration_s, example, json_lines_option
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import Ended, ended_by_signals, print_json_line, print_note
from keyleash.store.connect import node_client, node_of
from keyleash.store.server_check import require_supported
from keyleash.text import counted, json_object, printable, to_json
from keyleash.watch import Address, Watcher, WatchState
from keyleash.watch.roles import Sentinels

if TYPE_CHECKING:
    from keyleash.watch import WatchEvent


@click.command(epilog=example("keyleash watch --sentinel redis://10.0.0.5:26379"))
@urls_option(
    "--node",
    "KEYLEASH_NODES",
    "A server to begin with; repeatable. Its primary and replicas are found automatically."
    "  [default: that of --url]",
)
@urls_option("--sentinel", "KEYLEASH_SENTINELS", "A Sentinel that knows the servers; repeatable.")
@click.option(
    "--service",
    metavar="NAME",
    default="mymaster",
    show_default=True,
    help="Name of the primary in Sentinel.",
)
@click.option(
    "--interval",
    "interval_s",
    metavar="DURATION",
    default="1s",
    show_default=True,
    callback=duration_s,
    help="Interval between checks.",
)
@click.option(
    "--once", is_flag=True, help="Check once and exit: with 1 if drift was found, else with 0."
)
@json_lines_option
@pass_settings
def watch(
    settings: Settings,
    nodes: tuple[str, ...],
    sentinels: tuple[str, ...],
    service: str,
    interval_s: int,
    once: bool,
) -> int:
    """Keep guards loaded on a primary and its replicas, so that a failover finds them there.

    Loads missing scripts of a server from its own records, after comparing text and digest, and
    prints a line for each change: servers that do not answer or change their role, replicas with
    another policy, scripts whose text is missing or wrong. Runs until Ctrl-C or SIGTERM. User and
    password default to those of --url.
    """
    unreached = _require_supported(settings, nodes)
    if once and not sentinels and len(unreached) == len(nodes or (settings.url,)):
        # A watcher would try each of them again, and wait as long.
        settings.url, error = unreached[0]
        raise error
    watcher = _watcher(settings, nodes, sentinels, service)
    try:
        with ended_by_signals():
            if once:
                return _look_once(settings, watcher, interval_s)
            if not settings.json:
                print_note("watching; end it with Ctrl-C or SIGTERM")
            while True:
                _print_events(settings, watcher.look())
                time.sleep(interval_s)
    except Ended:
        print_note("stopped")
        return 0
    finally:
        watcher.close()


def _require_supported(
    settings: Settings, nodes: Sequence[str]
) -> list[tuple[str, redis_errors.RedisError]]:
    """Return URL and error of each server that does not answer; it may come back."""
    unreached: list[tuple[str, redis_errors.RedisError]] = []
    for url in nodes or (settings.url,):
        try:
            require_supported(node_client(url, settings.url, timeout_s=settings.timeout_s))
        except (redis_errors.ConnectionError, redis_errors.TimeoutError) as error:
            unreached.append((url, error))
    return unreached


def _watcher(
    settings: Settings, nodes: tuple[str, ...], sentinels: tuple[str, ...], service: str
) -> Watcher:
    seeds, connect = node_connector(settings, nodes or (() if sentinels else (settings.url,)))
    # Sentinels have users of their own, or none.
    clients = [
        (Address(*node_of(url)), node_client(url, url, timeout_s=settings.timeout_s))
        for url in sentinels
    ]
    return Watcher(connect, seeds, Sentinels(clients, service) if clients else None)


def _look_once(settings: Settings, watcher: Watcher, interval_s: int) -> int:
    _print_events(settings, watcher.look())
    if watcher.drifts:
        # A replica may just have been behind its primary.
        time.sleep(interval_s)
        _print_events(settings, watcher.look())
    if watcher.is_blind:
        print_note("no server answered")
        return UNREACHABLE
    if watcher.drifts:
        print_note(f"{counted(len(watcher.drifts), 'drift')} found")
        return FAILED
    return 0


def _print_events(settings: Settings, events: Iterator[WatchEvent]) -> None:
    for event in events:
        at = datetime.now(UTC)
        if settings.json:
            print_json_line({"at": to_json(at), **json_object(event)})
        else:
            is_resolved = event.state is WatchState.RESOLVED
            text = f"resolved {event.subject or ''}".rstrip() if is_resolved else event.message
            click.echo(f"{at:%H:%M:%SZ}  {event.node}  {event.kind}: {printable(text)}")
