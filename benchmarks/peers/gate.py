"""A gate in front of a server, where something can happen just before a certain request passes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread

CHUNK = 65_536
"""Bytes read at once: a small request comes in one piece."""


class Gate:
    """Forwards connections on a port of its own to those of a server."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listening]
        self._lock, self._left = Lock(), -1
        self._action: Callable[[], object] = lambda: None
        Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where to connect."""
        return int(self._listening.getsockname()[1])

    def before(self, number: int, action: Callable[[], object]) -> None:
        """Do *action* just before a request passes; *number* others pass first."""
        with self._lock:
            self._action, self._left = action, number

    def close(self) -> None:
        """Close everything."""
        for item in self._sockets:
            with suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
            item.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                for item in (client, server):
                    item.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += (client, server)
                for pair in ((client, server, self._pass), (server, client, lambda: None)):
                    Thread(target=_pump, args=pair, daemon=True).start()

    def _pass(self) -> None:
        with self._lock:
            if self._left == 0:
                self._action()
            self._left = max(self._left - 1, -1)


def _pump(source: socket.socket, sink: socket.socket, passing: Callable[[], object]) -> None:
    try:
        while data := source.recv(CHUNK):
            passing()
            sink.sendall(data)
    except OSError:
        pass  # one side is gone, and so is the other in a moment
    finally:
        for item in (source, sink):
            with suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)


@contextmanager
def gate_to(server_port: int) -> Iterator[Gate]:
    """A gate for the length of the block."""
    gate = Gate(server_port)
    try:
        yield gate
    finally:
        gate.close()
