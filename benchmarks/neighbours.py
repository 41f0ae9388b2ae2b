"""Calls through a gateway while another agent takes as much of it as it can.

    python -m benchmarks.neighbours [--server NAME] [--quick] [--attack NAME …]

One agent makes a GET each 10 ms; another identity attacks from a process of its own. Ratios are to
the same calls in the same run while nothing else happens, and beside a process that only takes as
much processor time as the attacker did (`busy`): attacker, gateway and server share two cores.
Memory is the growth of the peak of gateway and server, cores are those of the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from benchmarks.support.policy import operator_of
from benchmarks.support.servers import EMBEDDED, choose_servers, running, version_of

import keyleash
from keyleash.store.token import new_token

POLICY = """\
version: 1
identities:
  victim:
    kind: machine
    grants: [{allow: [read], keys: ["v:*"]}]
  attacker:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["k:*"]}
      - {allow: [publish, subscribe], channels: ["c:*"]}
    token: {bound: true}
    delegate: {depth: 1, children: 50}
"""
SECONDS, QUICK_SECONDS, WARM_S, PAUSE_S = 6.0, 2.0, 1.0, 0.01
BIG, MESSAGE, KEYS = 60 << 20, 1 << 20, 6_900
CHILDREN, OF_CHILD = 6, 1_990
BOUND = 4.0
"""The most that the p99 of others may grow, beside a process that is as busy."""
Words = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """The gateway, and the tokens that an attack uses."""

    port: int
    tokens: tuple[str, ...]


class Raw:
    """A connection of an attacker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *commands: Words) -> None:
        """Send commands."""
        for words in commands:
            parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
            packed = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
            self.writer.write(b"*%d\r\n%b" % (len(parts), packed))

    async def call(self, *words: Any) -> bytes:
        """Send a command, and return the first line of its reply; a bulk string is dropped."""
        self.send(words)
        line = await self.reader.readline()
        left = int(line[1:]) + 2 if line[:1] == b"$" and line[1:2] != b"-" else 0
        while left > 0 and (part := await self.reader.read(min(left, 1 << 20))):
            left -= len(part)
        return line


async def opened(target: Target, at: int = 0, *, login: bool = True) -> Raw:
    """Return a connection, with a token."""
    raw = Raw(*await asyncio.open_connection("127.0.0.1", target.port, limit=1 << 21))
    if login:
        await raw.call("AUTH", target.tokens[at])
    return raw


async def each(count: int, target: Target, work: Callable[[Raw], Awaitable[None]]) -> None:
    """Do the same on many connections, again after they are closed."""

    async def attack() -> None:
        while True:
            with contextlib.suppress(OSError, ValueError):
                await work(await opened(target))
            await asyncio.sleep(0.05)

    await asyncio.gather(*(attack() for _ in range(count)))


def repeated(*words: Any) -> Callable[[Raw], Awaitable[None]]:
    """Return work that makes one call again and again."""

    async def work(raw: Raw) -> None:
        while await raw.call(*words):
            pass

    return work


async def wrong_tokens(target: Target) -> None:
    """900 connections, each with ten wrong tokens every 0.3 s."""

    async def attack() -> None:
        while True:
            with contextlib.suppress(OSError):
                raw = await opened(target, login=False)
                while True:
                    raw.send(*[("AUTH", new_token("victim"))] * 10)
                    await asyncio.wait_for(raw.reader.read(1), 20)
                    await asyncio.sleep(0.3)
            await asyncio.sleep(0.05)

    await asyncio.gather(*(attack() for _ in range(900)))


async def own_messages(target: Target) -> None:
    """200 subscriptions to one channel, and messages of 1 MB to it."""

    async def listen(raw: Raw) -> None:
        raw.send(("SUBSCRIBE", "c:1"))
        while await raw.reader.read(1 << 20):
            pass

    async def publish(raw: Raw) -> None:
        while await raw.call("PUBLISH", "c:1", bytes(MESSAGE)):
            await asyncio.sleep(0.6)

    await asyncio.gather(each(200, target, listen), each(1, target, publish))


async def child_tokens(target: Target) -> None:
    """As many connections as there are, with the tokens of children."""
    held, full = [], asyncio.Semaphore(50)

    async def attack(at: int) -> None:
        async with full:
            with contextlib.suppress(OSError):
                held.append(await opened(target, 1 + at % CHILDREN))

    await asyncio.gather(*(attack(at) for at in range(CHILDREN * OF_CHILD)))
    await asyncio.sleep(60)


async def never_read(target: Target) -> None:
    """Ask for 200 MB each second, and read nothing."""
    while True:
        raw = await opened(target)
        raw.send(*[("GET", "k:mb")] * 200)
        await asyncio.sleep(1.0)


async def half_open(target: Target) -> None:
    """2,000 connections that send a byte at a time."""
    held: list[Raw] = []
    while True:
        with contextlib.suppress(OSError):
            held += [await opened(target, login=False) for _ in range(100 * (len(held) < 2_000))]
            for raw in held[::20]:
                raw.writer.write(b"*")
        await asyncio.sleep(0.02)


MANY = tuple(f"k:{number}" for number in range(KEYS))
ATTACKS: dict[str, Callable[[Target], Awaitable[None]]] = {
    "large replies": lambda target: each(4, target, repeated("GET", "k:big")),
    "own messages": own_messages,
    "wrong tokens": wrong_tokens,
    "denied EXISTS": lambda target: each(20, target, repeated("EXISTS", *MANY[1:], "v:a")),
    "child tokens": child_tokens,
    "BLPOP": lambda target: each(20, target, repeated("BLPOP", *MANY[1:], 0)),
    "flood": lambda target: each(100, target, repeated("GET", "k:none")),
    "never reads": never_read,
    "half open": half_open,
}


async def busy(share: float) -> None:
    """Take a share of a core, and nothing else."""
    while True:
        until = time.perf_counter() + share * PAUSE_S
        while time.perf_counter() < until:
            pass
        await asyncio.sleep((1 - share) * PAUSE_S)


@dataclass(frozen=True, slots=True)
class Times:
    """Percentiles of the calls of others, in ms."""

    p50: float
    p99: float


def main(argv: list[str] | None = None) -> int:
    """Print a table; return 1 if others wait too long, or cannot log in."""
    parser = argparse.ArgumentParser(prog="neighbours", description=__doc__)
    parser.add_argument("--server", default=EMBEDDED, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="2 s each; not for quoting")
    parser.add_argument("--attack", action="extend", nargs="+", choices=ATTACKS, default=[])
    options = parser.parse_args(argv)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    seconds = QUICK_SECONDS if options.quick else SECONDS
    (choice,) = choose_servers([options.server])
    is_met = True
    with running(choice, None) as server, redis.Redis.from_url(server.url) as admin:
        print(version_of(admin))
        server_pid = admin.info("server")["process_id"]
        for name in options.attack or ATTACKS:
            admin.flushall()
            operator = operator_of(admin)
            operator.load(keyleash.Policy(POLICY))
            tokens = [operator.tokens.issue(each).token for each in ("victim", "attacker")]
            admin.set("k:big", bytes(BIG))
            admin.set("k:mb", bytes(MESSAGE))
            with gateway_to(server.url) as (port, pid):
                client = keyleash.Redis.from_url(server.url, token=tokens[1])
                children = [client.delegate(ttl="1h").token for _ in range(CHILDREN)]
                is_met &= row(name, Target(port, (tokens[1], *children)), tokens[0], pid,
                              server_pid, seconds)  # fmt: skip
    return 0 if is_met else 1


def row(name: str, target: Target, victim: str, pid: int, server_pid: int, seconds: float) -> bool:
    """Measure one attack and print its figures; return whether others are served well."""
    times(target.port, victim, WARM_S)
    calm = times(target.port, victim, seconds)
    before = forget_peak(pid), forget_peak(server_pid)
    cpu = used(pid)
    with beside(lambda: ATTACKS[name](target)) as taken:
        attacked = times(target.port, victim, seconds)
        logins = sum(can_login(target.port, victim) for _ in range(10))
        cores = (used(pid) - cpu) / (seconds + WARM_S)
        grown = [peak(item) - start for item, start in zip((pid, server_pid), before, strict=True)]
    time.sleep(WARM_S)
    share = min(0.99, taken[0] / (seconds + WARM_S))
    with beside(lambda: busy(share)):
        control = times(target.port, victim, seconds)
    ratio = attacked.p99 / max(calm.p99, control.p99)
    print(
        f"  {name:<14} p50 {calm.p50:6.2f} → {attacked.p50:8.2f} ms ×{attacked.p50 / calm.p50:6.1f}"
        f"  p99 {calm.p99:6.2f} → {attacked.p99:8.2f} ms ×{attacked.p99 / calm.p99:6.1f}"
        f"  busy {control.p99:6.2f} ms ×{attacked.p99 / control.p99:6.1f}"
        f"  gateway {cores:4.2f} cores"
        f" {grown[0] / 1e6:+5.0f} MB  server {grown[1] / 1e6:+5.0f} MB  logins {logins}/10",
        flush=True,
    )
    return ratio <= BOUND and logins == 10


def times(port: int, token: str, seconds: float) -> Times:
    """Return the percentiles of GET, each 10 ms."""
    taken = []
    with redis.Redis(port=port, password=token, protocol=2, socket_timeout=30) as client:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            start = time.perf_counter()
            # A call that fails has taken its time, too.
            with contextlib.suppress(redis.RedisError):
                client.get("v:a")
            taken.append((time.perf_counter() - start) * 1e3)
            time.sleep(PAUSE_S)
    taken.sort()
    return Times(taken[len(taken) // 2], taken[int(len(taken) * 0.99)])


def can_login(port: int, token: str) -> bool:
    """Return whether a new connection is served."""
    with contextlib.suppress(redis.RedisError, OSError):
        with redis.Redis(port=port, password=token, protocol=2, socket_timeout=10) as client:
            client.get("v:a")
        return True
    return False


@contextlib.contextmanager
def beside(work: Callable[[], Awaitable[None]]) -> Iterator[list[float]]:
    """Run work in a process of its own; add its seconds of processor time when it has ended."""
    spent: list[float] = []
    pid = os.fork()
    if not pid:
        logging.disable()
        with contextlib.suppress(BaseException):
            asyncio.run(asyncio.wait_for(work(), 90))
        os._exit(0)
    time.sleep(WARM_S)
    try:
        yield spent
    finally:
        os.kill(pid, 9)
        usage = os.wait4(pid, 0)[2]
        spent.append(usage.ru_utime + usage.ru_stime)


def used(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def peak(pid: int) -> int:
    """Return the most bytes of memory that a process had since `forget_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def forget_peak(pid: int) -> int:
    """Let the peak of a process begin again; return it."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak(pid)


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
