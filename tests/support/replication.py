"""A primary and its replicas, each a server process of its own that a test may end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from keyleash.addons.servers import EmbeddedServer
from support.servers import RealServer

PATIENCE_S = 300.0
POLL_S = 0.01


class Address:
    """Where a name leads: connections that are made to it go to the node of the moment."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                server = socket.create_connection(self.node.address)
                self._open += [caller, server]
                for item, other in ((caller, server), (server, caller)):
                    threading.Thread(target=_forward, args=(item, other), daemon=True).start()

    def close(self) -> None:
        for item in self._open:
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
            item.close()


def _forward(first: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := first.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_RDWR)


class Node(RealServer):
    """A server that may be killed, cut off and promoted."""

    def __init__(self, process: EmbeddedServer) -> None:
        super().__init__("node", process)
        self.process = process
        self.admin: Any = self.client()
        # Otherwise a replica's first synchronization begins five seconds late.
        self.admin.config_set("repl-diskless-sync-delay", 0)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def follow(self, primary: Node) -> None:
        """Become a replica, and wait until it has all there is."""
        self.admin.replicaof(*primary.address)
        wait_until(lambda: self.admin.info("replication")["master_link_status"] == "up")

    def settle(self) -> None:
        """Wait until the replicas have all that was written, on whatever connection."""
        # WAIT looks back to the last write of its own connection.
        self.admin.incr("settled")
        replicas = self.admin.info("replication")["connected_slaves"]
        assert self.admin.wait(replicas, int(PATIENCE_S * 1000)) >= replicas

    def promote(self) -> None:
        self.admin.replicaof("NO", "ONE")

    def kill(self) -> None:
        self.process.kill()

    def halt(self) -> None:
        """Let it do nothing more: it takes and acknowledges no write."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextlib.contextmanager
def nodes(binary: Path, count: int) -> Iterator[list[Node]]:
    """Start *count* servers; the first is the primary of the others."""
    with contextlib.ExitStack() as stack:
        made: list[Node] = []
        for _ in range(count):
            process = stack.enter_context(EmbeddedServer(binary=binary))
            made.append(Node(process))
            stack.callback(made[-1].close_clients)
            # One that a test halted would not hear that it is to end.
            stack.callback(made[-1].kill)
        for replica in made[1:]:
            replica.follow(made[0])
        yield made


def wait_until(is_so: Any) -> None:
    """Wait until a condition holds; an error reply counts as false."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if is_so():
                return
        assert time.monotonic() < deadline_s, "it did not come about"
        time.sleep(POLL_S)
