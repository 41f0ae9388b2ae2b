"""`keyleash watch`: guards kept loaded on every server, and drift told."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from redis import exceptions as redis_errors

from keyleash.cli.failures import FAILED, UNREACHABLE
from keyleash.cli.options import duration_s, example, json_lines_option
from keyleash.cli.settings import Settings, node_client, node_of, pass_settings
from keyleash.cli.terminal import Ended, ended_by_signals, print_json_line, print_note
from keyleash.errors import UsageError
from keyleash.store.records import Client
from keyleash.store.server_check import require_supported
from keyleash.text import counted, printable
from keyleash.watch import Address, Watcher
from keyleash.watch.roles import Sentinels

if TYPE_CHECKING:
    from keyleash.watch import Watcher, WatchEvent


def without_secrets(
    context: click.Context, parameter: click.Parameter, urls: tuple[str, ...]
) -> tuple[str, ...]:
    """Refuse a password on the command line, where others see it in the process list."""
    given = context.get_parameter_source(parameter.name or "")
    if given is ParameterSource.COMMANDLINE and any("@" in url for url in urls):
        raise UsageError(
            f"a user or password in `{parameter.opts[0]}` would be seen in the process list",
            help=f"put them into KEYLEASH_URL, or all URLs into {parameter.envvar}",
        )
    return urls


@click.command(epilog=example("keyleash watch --sentinel redis://10.0.0.5:26379"))
@click.option(
    "--node",
    "nodes",
    metavar="URL",
    multiple=True,
    envvar="KEYLEASH_NODES",
    callback=without_secrets,
    help="A server to begin with; may be given again. Its primary and replicas are found from"
    " there.  [default: that of --url; env var: KEYLEASH_NODES, with spaces between]",
)
@click.option(
    "--sentinel",
    "sentinels",
    metavar="URL",
    multiple=True,
    envvar="KEYLEASH_SENTINELS",
    callback=without_secrets,
    help="A Sentinel that knows the servers; may be given again.  [env var: KEYLEASH_SENTINELS]",
)
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

    Loads what a server lacks from its own records, after it compared text and digest, and says
    in a line each what changes: servers that do not answer or change their role, replicas
    with another policy, scripts without text or with a wrong one. Runs until Ctrl-C or
    SIGTERM. User and password for all servers are those of --url, if a URL has none itself.
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
                _tell(settings, watcher.look())
                time.sleep(interval_s)
    except Ended:
        print_note("stopped")
        return 0
    finally:
        watcher.close()


def _require_supported(
    settings: Settings, nodes: Sequence[str]
) -> list[tuple[str, redis_errors.RedisError]]:
    """
    Check the servers that answer; one that does not may come back.

    Returns:
        The URL of each that does not answer, and the error.

    Raises:
        OperationError (unsupported-server): One is too old.
        ClusterError: One is a node of a Redis Cluster.
    """
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

    given = nodes or (() if sentinels else (settings.url,))
    urls = {Address(*node_of(url)): url for url in given}
    # Sentinels have users of their own, or none.
    asked = [
        (Address(*node_of(url)), node_client(url, url, timeout_s=settings.timeout_s))
        for url in sentinels
    ]
    first = next(iter(given), settings.url)

    def connect(address: Address) -> Client:
        return node_client(urls.get(address, first), settings.url, address, settings.timeout_s)

    return Watcher(connect, list(urls), Sentinels(asked, service) if asked else None)


def _look_once(settings: Settings, watcher: Watcher, interval_s: int) -> int:
    _tell(settings, watcher.look())
    if watcher.drifts:
        # A replica may just have been behind its primary.
        time.sleep(interval_s)
        _tell(settings, watcher.look())
    if watcher.is_blind:
        print_note("no server answered")
        return UNREACHABLE
    if watcher.drifts:
        print_note(f"{counted(len(watcher.drifts), 'drift')} found")
        return FAILED
    return 0


def _tell(settings: Settings, news: Iterator[WatchEvent]) -> None:
    for new in news:
        at = datetime.now(UTC)
        if settings.json:
            print_json_line(
                {
                    "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    "node": new.node,
                    "kind": str(new.kind),
                    "state": str(new.state),
                    "subject": new.subject or None,
                    "message": new.message,
                }
            )
        else:
            said = new.message
            if new.state == "resolved":
                said = f"resolved {new.subject}".rstrip()
            click.echo(f"{at:%H:%M:%SZ}  {new.node}  {new.kind}: {printable(said)}")
