"""`keyleash serve`: a development server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from redis.exceptions import RedisError

from keyleash.addons.servers import EmbeddedCluster, EmbeddedServer
from keyleash.addons.servers.embedded import stack_server
from keyleash.cli.options import DIRECTORY, example, with_settings
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import Ended, ended_by_signals, print_json, print_note
from keyleash.errors import KeyleashError, OperationError, PortTakenError, UsageError
from keyleash.operator.server import SERVE_ZONE, summarize_server
from keyleash.store.connect import connect
from keyleash.text import counted

DEFAULT_PORT = 6379
PROBE_TIMEOUT_S = 1.0
SETTINGS = {"client-output-buffer-limit": "normal 256mb 64mb 60", "availability-zone": SERVE_ZONE}
"""The settings that `keyleash doctor` recommends for every policy, and the mark of this command.

Not `maxmemory-clients`: the eviction of clients is faulty in the embedded release.
"""


@click.command(epilog=example("keyleash serve --data ./keyleash-data"))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    help="The port on 127.0.0.1; 0 picks a free one.",
)
@click.option(
    "--data",
    metavar="DIR",
    type=DIRECTORY,
    help="Store the data in DIR.  [default: in memory only]",
)
@click.option(
    "--cluster",
    "primaries",
    metavar="N",
    type=click.IntRange(1, 16),
    help="Run a cluster of N primaries, on consecutive ports, in memory only.",
)
@click.option(
    "--replicas",
    type=click.IntRange(0, 1),
    help="With --cluster: the number of replicas of each primary.  [default: 1]",
)
@click.option(
    "--stack",
    is_flag=True,
    help="Run the `redis-server` on PATH, 8 or later, with the modules of Redis Stack.",
)
@with_settings
def serve(
    settings: Settings,
    port: int,
    data: str | None,
    primaries: int | None,
    replicas: int | None,
    stack: bool,
) -> None:
    """Run a local development server, or a cluster.

    Runs the embedded Valkey, or Redis with --stack, on 127.0.0.1 until Ctrl-C, without password:
    for development and demonstrations only.
    """
    server = _server(port, data, primaries, replicas, stack=stack)
    try:
        with ended_by_signals(), server:
            _announce(settings, server, stack=stack)
            status = server.wait()
    except Ended:
        print_note("stopped")
    except PortTakenError as error:
        holder = _holder(error.url)
        raise OperationError(
            "server-start",
            f"{error.message}{f' by {holder}' if holder else ''}",
            help="use that server, stop it, or choose another port: `keyleash serve --port 0` picks"
            " a free one and prints the URL for KEYLEASH_URL",
        ) from None
    else:
        raise OperationError("server-start", f"the server ended by itself, with status {status}")


def _server(
    port: int, data: str | None, primaries: int | None, replicas: int | None, *, stack: bool
) -> EmbeddedServer | EmbeddedCluster:
    binary, modules = stack_server() if stack else (None, {})
    settings = {**SETTINGS, **modules}
    if stack:
        # Only Valkey knows it.
        del settings["availability-zone"]
    if primaries is None:
        if replicas is not None:
            raise UsageError("`--replicas` needs `--cluster`")
        folder = Path(data) if data is not None else None
        return EmbeddedServer(port or None, folder, binary=binary, settings=settings)
    if data is not None:
        raise UsageError("`--data` and `--cluster` exclude each other", help="use one")
    replicas = 1 if replicas is None else replicas
    if port + primaries * (1 + replicas) > 65536:
        raise UsageError("the ports of the nodes exceed 65535", help="choose a lower port")
    return EmbeddedCluster(primaries, replicas, port=port or None, binary=binary, settings=settings)


def _holder(url: str) -> str:
    """Return the name of the server that answers at *url*; empty if it gives none."""
    try:
        summary = summarize_server(connect(url, PROBE_TIMEOUT_S))
    except (RedisError, KeyleashError):
        return ""
    if not summary.version:
        return ""
    return summary.release + (", started by `keyleash serve`" if summary.is_from_serve else "")


def _announce(settings: Settings, server: EmbeddedServer | EmbeddedCluster, *, stack: bool) -> None:
    data = None
    if isinstance(server, EmbeddedCluster):
        nodes = server.nodes
        note = counted(server.primaries, "primary")
        if server.replicas:
            note += ", followed by their replicas in the same order"
        note += "; data is in memory only"
    else:
        nodes = [server]
        data = None if server.data is None else str(server.data)
        note = f"data is stored in {data}" if data else "data is in memory only: no --data"
    if settings.json:
        urls = [node.url for node in nodes]
        print_json({"url": server.url, "pid": os.getpid(), "data": data, "nodes": urls})
    else:
        for node in nodes:
            click.echo(node.url)
        print_note(note)
        print_note(f"stop it with Ctrl-C, or with `kill {os.getpid()}`")
        # Redis has no `availability-zone` by which other commands know the server.
        if stack or nodes[0].port != DEFAULT_PORT:
            print_note(f"for other commands: export KEYLEASH_URL={server.url}")
    # Flushed: a calling program may wait for the lines.
    sys.stdout.flush()
