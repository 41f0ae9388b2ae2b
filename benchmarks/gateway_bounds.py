"""Calls through a gateway while other agents take as much of it as they can.

    python -m benchmarks.gateway_bounds [--server NAME] [--rounds 3]

One agent makes one call at a time and others do nothing; then others ask for 200 MB that they never
read, hold half-open connections, or try wrong tokens. Memory is that of the gateway's process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
from benchmarks.support.bars import Bar, Side, bar_table
from benchmarks.support.policy import IDENTITY, load_target
from benchmarks.support.servers import EMBEDDED, choose_servers, running, version_of
from benchmarks.support.variants import KEY, VALUE

from keyleash.store.token import new_token

CALLS = 5_000
HALF_OPEN = 2_000
GUESSERS = 50
BIG, ASKED = 1 << 20, 200
PAUSE_S = 0.02
IDLE = 5_000
SMALL, LARGE = (KEY.format(job=f"{number:012d}") for number in range(2))
Disturb = Callable[[int, str, threading.Event], None]


def main(argv: list[str] | None = None) -> int:
    """Print the figures and the bars; return 1 if one is missed."""
    parser = argparse.ArgumentParser(prog="gateway_bounds", description=__doc__)
    parser.add_argument("--server", default=EMBEDDED, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    (choice,) = choose_servers([options.server])
    kinds: dict[str, Disturb] = {
        "never reads": never_read, "half open": half_open, "wrong tokens": guess,
    }  # fmt: skip
    bars = []
    with running(choice, None) as server, redis.Redis.from_url(server.url) as admin:
        print(version_of(admin))
        token = load_target(admin).token
        for kind, disturb in kinds.items():
            found = []
            with gateway_to(server.url) as (port, pid):
                for _ in range(options.rounds):
                    calm = p99_of(port, token)
                    before = resident(pid)
                    with running_beside(disturb, port, token):
                        found.append((calm, p99_of(port, token), resident(pid) - before))
            ratio = statistics.median(busy / calm for calm, busy, _ in found)
            grown = max(grown for *_, grown in found)
            for calm, busy, _ in found:
                print(f"  {kind:<14} p99 of SET {calm:6.0f} µs calm, {busy:6.0f} µs beside")
            print(f"  {kind:<14} memory of the gateway +{grown / 1e6:.0f} MB")
            bars.append(Bar(f"p99 beside: {kind}", Side.AT_MOST, 3.0, "calm", ratio))
        with gateway_to(server.url) as (port, pid):
            each = idle_bytes(port, pid, admin)
        print(f"  {IDLE} idle connections: {each / 1024:.1f} KiB each")
        bars.append(Bar("an idle connection", Side.AT_MOST, 10.0, "KiB", each / 1024))
    print(bar_table((choice.name, item, False) for item in bars))
    return 0 if all(item.met for item in bars) else 1


def p99_of(port: int, token: str) -> float:
    """Return the 99th percentile of SET, in µs, one call at a time."""
    with redis.Redis(port=port, username=IDENTITY, password=token, protocol=2) as client:
        taken = []
        for _ in range(CALLS):
            start = time.perf_counter()
            client.set(SMALL, VALUE)
            taken.append(time.perf_counter() - start)
    return sorted(taken)[int(CALLS * 0.99)] * 1e6


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def connected(port: int, token: str) -> redis.connection.Connection:
    """Return a connection that has logged in."""
    connection = redis.connection.Connection(
        port=port, username=IDENTITY, password=token, protocol=2
    )
    connection.connect()
    return connection


def never_read(port: int, token: str, ended: threading.Event) -> None:
    """Ask for 200 MB, and read nothing."""
    writer = connected(port, token)
    writer.send_command("SET", LARGE, bytes(BIG))
    writer.read_response()
    connections = []
    while not ended.is_set():
        connections.append(connected(port, token))
        connections[-1].send_packed_command(writer.pack_commands([("GET", LARGE)] * ASKED))
        ended.wait(1.0)
    for connection in (writer, *connections):
        connection.disconnect()


def half_open(port: int, token: str, ended: threading.Event) -> None:
    """Connect 2,000 times, and send a byte at a time."""
    connections: list[socket.socket] = []
    while not ended.wait(PAUSE_S):
        for _ in range(100):
            if len(connections) < HALF_OPEN:
                connections.append(socket.create_connection(("127.0.0.1", port)))
        for connection in connections[:: HALF_OPEN // 100]:
            with contextlib.suppress(OSError):
                connection.send(b"*")
    for connection in connections:
        connection.close()


def guess(port: int, token: str, ended: threading.Event) -> None:
    """Try wrong tokens on many connections at once, and connect again."""
    connections: dict[int, socket.socket] = {}
    while not ended.wait(PAUSE_S / 10):
        for number in range(GUESSERS):
            with contextlib.suppress(OSError):
                if number not in connections:
                    connection = socket.create_connection(("127.0.0.1", port))
                    connection.setblocking(False)
                    wrong = new_token(IDENTITY).encode()
                    connection.send(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(wrong), wrong))
                    connections[number] = connection
                elif connections[number].recv(1000):
                    connections.pop(number).close()
    for connection in connections.values():
        connection.close()


@contextlib.contextmanager
def running_beside(disturb: Disturb, port: int, token: str) -> Iterator[None]:
    """Run what disturbs in a process of its own."""
    ended = threading.Event()
    pid = os.fork()
    if not pid:
        timer = threading.Timer(60, ended.set)
        timer.daemon = True
        timer.start()
        with contextlib.suppress(OSError, redis.RedisError):
            disturb(port, token, ended)
        os._exit(0)
    time.sleep(0.5)
    try:
        yield
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def idle_bytes(port: int, pid: int, admin: redis.Redis) -> float:
    """Return the bytes of memory for each connection that has logged in."""
    tokens = [load_target(admin).token for _ in range(5)]
    connections, before = [], 0
    for number in range(IDLE + 200):
        if number == 200:
            before = resident(pid)
        connections.append(connected(port, tokens[number % 5]))
    each = (resident(pid) - before) / IDLE
    for connection in connections:
        connection.disconnect()
    return each


@contextlib.contextmanager
def gateway_to(url: str) -> Iterator[tuple[int, int]]:
    """Run a gateway; yield its port and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "keyleash", "gateway", "--listen", "127.0.0.1:0", "--admin",
         "127.0.0.1:0"],
        env={**os.environ, "KEYLEASH_URL": url},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        yield int(process.stdout.readline().rpartition(":")[2]), process.pid
    finally:
        process.terminate()
        process.communicate()


if __name__ == "__main__":
    sys.exit(main())
