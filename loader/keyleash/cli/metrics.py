"""`keyleash metrics`: the numbers of `keyleash status` for Prometheus."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import click
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from keyleash.cli.failures import FAILED, failure_of
from keyleash.cli.options import example, json_option
from keyleash.cli.settings import Settings, node_client, pass_settings
from keyleash.cli.terminal import Ended, ended_by_signals, print_json, print_note
from keyleash.errors import (
    OperationError,
    UsageError,
)
from keyleash.metrics import SnapshotCollector
from keyleash.status import read_snapshot

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

HOST = "127.0.0.1"


@click.command(epilog=example("keyleash metrics --port 9121"))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"Serve on {HOST} at this port until Ctrl-C or SIGTERM; 0 picks a free one.",
)
@json_option
@pass_settings
def metrics(settings: Settings, port: int | None) -> int:
    """Print metrics in Prometheus' text format, or serve them.

    Every scrape reads the server once. If it cannot be read, within 2 seconds for each answer, or
    --timeout before the command, `keyleash_up` is 0 and the rest is missing; without --port the
    exit code is then that of other commands, 69 if the server is out of reach. With --port, --json
    tells the URL. docs/reference/metrics.md has every name, and alerts.
    """
    if settings.json and port is None:
        raise UsageError(
            "metrics are no JSON document", help="`keyleash status --json` has the same numbers"
        )
    troubles = _Troubles(settings)
    # Whoever scrapes gives up after some seconds, and so does this.
    client = node_client(settings.url, settings.url, timeout_s=settings.timeout_s)
    collector = SnapshotCollector(lambda: read_snapshot(client), troubles.tell)
    registry = CollectorRegistry()
    registry.register(collector)
    if port is not None:
        _serve(settings, registry, port)
        return 0
    sys.stdout.write(generate_latest(registry).decode())
    if collector.failure is None:
        return 0
    failure = failure_of(collector.failure, settings.shown_url)
    return FAILED if failure is None else failure.exit_code


class _Troubles:
    """Says why the server cannot be read, once for as long as it stays the same."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._last = ""
        self._lock = threading.Lock()

    def tell(self, error: Exception | None) -> None:
        said = "" if error is None else self._words(error)
        with self._lock:
            if said not in ("", self._last):
                print_note(f"error: {said}")
            self._last = said

    def _words(self, error: Exception) -> str:
        failure = failure_of(error, self._settings.shown_url)
        if failure is None:
            return f"records cannot be read: {type(error).__name__}"
        return f"{failure.message}\nhelp: {failure.help}" if failure.help else failure.message


def _serve(settings: Settings, registry: CollectorRegistry, port: int) -> None:

    try:
        server, thread = start_http_server(port, addr=HOST, registry=registry)
    except OSError as error:
        raise OperationError(
            "port-in-use",
            f"cannot listen on {HOST}:{port}: {(error.strerror or str(error)).lower()}",
            help="choose another port: `--port 0` takes a free one",
        ) from None
    url = f"http://{HOST}:{server.server_port}/metrics"
    try:
        with ended_by_signals():
            if settings.json:
                print_json({"url": url})
            else:
                click.echo(url)
            sys.stdout.flush()
            thread.join()
    except Ended:
        print_note("stopped")
    finally:
        server.shutdown()
        server.server_close()
