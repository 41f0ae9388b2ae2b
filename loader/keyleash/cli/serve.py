"""`keyleash serve`: a development server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from keyleash.cli.options import DIRECTORY, example, json_option
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import Ended, ended_by_signals, print_json, print_note
from keyleash.errors import OperationError
from keyleash.servers import EmbeddedServer
from keyleash.servers.embedded import PortTakenError

SETTINGS = {"client-output-buffer-limit": "normal 256mb 64mb 60"}
"""The settings that `keyleash doctor` recommends for every policy.

Not `maxmemory-clients`: the eviction of clients is faulty in the embedded release.
"""


@click.command(epilog=example("keyleash serve --data ./keyleash-data"))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=6379,
    show_default=True,
    help="The port on 127.0.0.1; 0 picks a free one.",
)
@click.option(
    "--data",
    metavar="DIR",
    type=DIRECTORY,
    help="Store the data in DIR.  [default: in memory only]",
)
@json_option
@pass_settings
def serve(settings: Settings, port: int, data: str | None) -> None:
    """Run a local development server.

    Runs the embedded Valkey on 127.0.0.1 until Ctrl-C, without password and replicas: for
    development and demonstrations only.
    """
    folder = Path(data) if data is not None else None
    server = EmbeddedServer(port or None, folder, settings=SETTINGS)
    try:
        with ended_by_signals(), server:
            _announce(settings, server)
            status = server.wait()
    except Ended:
        print_note("stopped")
    except PortTakenError as error:
        raise OperationError(
            "server-start",
            error.message,
            help="stop the process on that port, or choose another: `--port 0` picks a free one",
        ) from None
    else:
        raise OperationError("server-start", f"the server ended by itself, with status {status}")


def _announce(settings: Settings, server: EmbeddedServer) -> None:
    # Flushed: a calling program may wait for the line.
    data = None if server.data is None else str(server.data)
    if settings.json:
        print_json({"url": server.url, "pid": os.getpid(), "data": data})
    else:
        click.echo(server.url)
        print_note(f"data is stored in {data}" if data else "data is in memory only: no --data")
        print_note(f"stop it with Ctrl-C, or with `kill {os.getpid()}`")
    sys.stdout.flush()
