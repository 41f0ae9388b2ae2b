"""`keyleash watch`: load missing guards on every server, and report drift."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import click
from redis.exceptions import ConnectionError, TimeoutError

from keyleash.cli.nodes import sentinel_option, service_option, urls_option
from keyleash.cli.options import as_duration, example, json_lines_option
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json_line, print_note, until_signal
from keyleash.errors.operations import FAILED, UNREACHABLE
from keyleash.store.connect import NODE_TIMEOUT_S
from keyleash.text import counted, printable
from keyleash.watch.events import WatchEvent, WatchState
from keyleash.watch.watcher import Watcher


@click.command(epilog=example("keyleash watch --sentinel redis://10.0.0.5:26379"))
@urls_option(
    "--node",
    "KEYLEASH_NODES",
    "A server to begin with; repeatable. Its primary and replicas are found automatically."
    "  [default: that of --url]",
)
@sentinel_option
@service_option
@click.option(
    "--interval",
    metavar="DURATION",
    default="1s",
    callback=as_duration,
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
    interval: timedelta,
    once: bool,
) -> int:
    """Keep guards loaded on a primary and its replicas, so that a failover finds them there.

    Loads missing scripts of a server from its own records, after comparing text and digest, and
    prints a line for each change: servers that do not answer or change their role, replicas with
    another policy, scripts whose text is missing or wrong. Runs until Ctrl-C or SIGTERM. User and
    password default to those of --url.

    On a cluster it also adds ACL users of agents that a node lacks. An identity that its circuit
    breaker suspended at one node is frozen at all nodes.
    """
    try:
        watcher = settings.unconnected(NODE_TIMEOUT_S).watcher(
            nodes=nodes, sentinels=sentinels, service=service, must_answer=once
        )
    except (ConnectionError, TimeoutError):
        settings.url = next(iter(nodes), settings.url)
        raise
    with watcher, until_signal("stopped"):
        if once:
            return _look_once(settings, watcher, interval)
        if not settings.json:
            print_note("watching; end it with Ctrl-C or SIGTERM")
        _print_events(settings, watcher.run(interval.total_seconds()))
    return 0


def _look_once(settings: Settings, watcher: Watcher, interval: timedelta) -> int:
    _print_events(settings, watcher.look_again(interval.total_seconds()))
    if watcher.is_blind:
        print_note("no server answered")
        return UNREACHABLE
    if watcher.drifts:
        print_note(f"{counted(len(watcher.drifts), 'drift')} found")
        return FAILED
    return 0


def _print_events(settings: Settings, events: Iterator[WatchEvent]) -> None:
    for event in events:
        if settings.json:
            print_json_line(event)
        else:
            is_resolved = event.state is WatchState.RESOLVED
            text = f"resolved {event.subject or ''}".rstrip() if is_resolved else event.message
            click.echo(f"{event.at:%H:%M:%SZ}  {event.node}  {event.kind}: {printable(text)}")
