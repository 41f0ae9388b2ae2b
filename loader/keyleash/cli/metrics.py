"""`keyleash metrics`: the numbers of `keyleash status` in Prometheus' text format."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import click

from keyleash.addons.metrics import SnapshotCollector
from keyleash.cli.failures import failure_of
from keyleash.cli.options import example, with_settings
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_note, until_signal
from keyleash.errors import UsageError
from keyleash.errors.operations import FAILED
from keyleash.store.connect import NODE_TIMEOUT_S

HOST = "127.0.0.1"


@click.command(epilog=example("keyleash metrics --port 9121"))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Serve at this port until Ctrl-C or SIGTERM; 0 picks a free one.",
)
@click.option("--host", default=HOST, help="Address to serve on, with --port.")
@with_settings
def metrics(settings: Settings, port: int | None, host: str) -> int:
    """Print metrics in Prometheus' text format, or serve them.

    Every scrape reads the server once. If a reply takes longer than 2 seconds, or than --timeout,
    `keyleash_up` is 0 and other metrics are missing; without --port the exit code is then that of
    other commands, 69 if the server is unreachable. With --port, --json prints the URL. See
    docs/reference/metrics.md for all metrics, and for alerts.
    """
    if settings.json and port is None:
        raise UsageError(
            "metrics cannot be printed as JSON",
            help="`keyleash status --json` has the same numbers",
        )
    # Short timeouts, since a scrape is aborted after some seconds.
    collector = settings.unconnected(NODE_TIMEOUT_S).collector(_failure_printer(settings))
    if port is not None:
        _serve(settings, collector, host, port)
        return 0
    sys.stdout.write(collector.text())
    if collector.failure is None:
        return 0
    failure = failure_of(collector.failure, settings.shown_url, settings.operation)
    return FAILED if failure is None else failure.exit_code


def _failure_printer(settings: Settings) -> Callable[[Exception | None], None]:
    """Return a function that prints why the server cannot be read, unless it printed that last."""
    last = ""
    lock = threading.Lock()

    def print_failure(error: Exception | None) -> None:
        nonlocal last
        message = "" if error is None else _message(error, settings)
        with lock:
            if message not in ("", last):
                print_note(f"error: {message}")
            last = message

    return print_failure


def _message(error: Exception, settings: Settings) -> str:
    failure = failure_of(error, settings.shown_url, settings.operation)
    if failure is None:
        return f"records cannot be read: {type(error).__name__}"
    return f"{failure.message}\nhelp: {failure.help}" if failure.help else failure.message


def _serve(settings: Settings, collector: SnapshotCollector, host: str, port: int) -> None:
    with collector.serve(port, host) as url, until_signal("stopped"):
        settings.show({"url": url}, lambda: click.echo(url))
        sys.stdout.flush()
        threading.Event().wait()
