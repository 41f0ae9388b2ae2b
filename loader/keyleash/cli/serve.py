"""`keyleash serve`: a server to try things on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyleash.cli.options import DIRECTORY, example, json_option
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import Ended, ended_by_signals, print_json, print_note
from keyleash.errors import OperationError
from keyleash.servers import EmbeddedServer
from keyleash.servers.embedded import PortTakenError

if TYPE_CHECKING:
    from keyleash.servers import EmbeddedServer

SETTINGS = {"client-output-buffer-limit": "normal 256mb 64mb 60"}
"""What `keyleash doctor` recommends and suits every policy.

`maxmemory-clients` is not set: the embedded release has a flaw in the eviction of clients.
"""


@click.command(epilog=example("keyleash serve --data ./keyleash-data"))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=6379,
    show_default=True,
    help="The port on 127.0.0.1; 0 takes a free one.",
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

    Starts the Valkey that comes with keyleash, on 127.0.0.1 only, until Ctrl-C. It has no
    password and no replica: it is for development and for demonstrations.
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
            help="stop what listens there, or choose another port: `--port 0` takes a free one",
        ) from None
    else:
        raise OperationError("server-start", f"the server ended by itself, with status {status}")


def _announce(settings: Settings, server: EmbeddedServer) -> None:
    """Print the address at once: a calling program may wait for the line."""
    data = None if server.data is None else str(server.data)
    if settings.json:
        print_json({"url": server.url, "pid": os.getpid(), "data": data})
    else:
        click.echo(server.url)
        print_note(f"the data is kept in {data}" if data else "nothing is kept: there is no --data")
        print_note(f"stop it with Ctrl-C, or with `kill {os.getpid()}`")
    sys.stdout.flush()
