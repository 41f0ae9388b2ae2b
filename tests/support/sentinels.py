"""Sentinels that watch a primary, and promote a replica when it is gone."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from keyleash.addons.servers.embedded import free_port
from support.replication import Node, wait_until

SERVICE = "mymaster"
DOWN_AFTER_MS = 1000
FAILOVER_TIMEOUT_MS = 3000


class Sentinels:
    """Some Sentinels of one primary.

    Attributes:
        addresses: Where they listen.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]]) -> None:
        self.addresses = addresses

    @property
    def clients(self) -> list[Any]:
        return [redis.Redis(port=port, decode_responses=True) for _, port in self.addresses]

    def primary(self) -> tuple[str, int]:
        """Return the reply of the first Sentinel."""
        name, port = self.clients[0].sentinel_get_master_addr_by_name(SERVICE)
        return name, int(port)

    def are_ready(self, replicas: int) -> bool:
        """Return whether each knows the others and all replicas."""
        # Not by `sentinel_master`, whose reply redis-py 7.0 cannot parse.
        states = [client.execute_command("SENTINEL MASTER", SERVICE) for client in self.clients]
        return all(
            state["num-other-sentinels"] == len(self.addresses) - 1
            and state["num-slaves"] == replicas
            for state in states
        )

    def switched(self) -> Iterator[float]:
        """Give the moment, by the monotonic clock, at which another primary is announced."""
        pubsub = self.clients[0].pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe("+switch-master")
        yield 0.0
        while True:
            if pubsub.get_message(timeout=1.0):
                yield time.monotonic()
                return


@contextlib.contextmanager
def sentinels(binary: Path, primary: Node, folder: Path, *, count: int = 3) -> Iterator[Sentinels]:
    """Start *count* Sentinels, and wait until they know each other and all replicas."""
    replicas = int(primary.admin.info("replication")["connected_slaves"])
    with contextlib.ExitStack() as stack:
        addresses = []
        for number in range(count):
            port = free_port()
            stack.enter_context(_process(binary, port, primary, folder / f"{number}", count))
            addresses.append(("127.0.0.1", port))
        group = Sentinels(addresses)
        wait_until(lambda: group.are_ready(replicas))
        yield group


@contextlib.contextmanager
def _process(
    binary: Path, port: int, primary: Node, folder: Path, count: int
) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir()
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {count // 2 + 1}\n"
        f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
        f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary, settings, "--sentinel"], stdout=log, stderr=log, process_group=0
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
