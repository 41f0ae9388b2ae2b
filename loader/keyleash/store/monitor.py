"""MONITOR, and the names of the clients whose calls it shows."""

from __future__ import annotations

import time
from collections.abc import Iterator

from keyleash.store.server_check import Client


def client_names(client: Client) -> Iterator[tuple[str, str]]:
    """Yield the address and the name of each client of the server that has one, or its user."""
    for item in client.client_list():
        name = item["name"] or item["user"].replace("default", "")
        if name:
            yield item["addr"], name


def monitored(client: Client, seconds: float) -> Iterator[tuple[bytes | None, float]]:
    """Yield lines of MONITOR, or None after an idle second, and the seconds since the start."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command("MONITOR")
        connection.read_response()
        begun = time.monotonic()
        while (past_s := time.monotonic() - begun) < seconds:
            has_line = connection.can_read(min(1.0, seconds - past_s))
            yield (connection.read_response(disable_decoding=True) if has_line else None), past_s
    finally:
        # No other command may follow MONITOR.
        connection.disconnect()
        client.connection_pool.release(connection)
