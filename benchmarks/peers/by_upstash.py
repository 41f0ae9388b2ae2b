"""Upstash's ratelimit through ioredis; the rest by hand: five round trips.

Calls of another client library have another cost, so a plain SET and keyleash's guard are
measured through ioredis, too. This needs Node.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from benchmarks.peers import work
from benchmarks.peers.by_redis_py import KEYLEASH, PLAIN
from benchmarks.peers.peer import IOREDIS, Bed, Caller, Guarantees, Peer
from benchmarks.support.load import LoadError
from benchmarks.support.variants import VALUE

HERE = Path(__file__).parent / "upstash"
INSTALLED = HERE / "node_modules"
DONE = INSTALLED / ".package-lock.json"
"""Written by npm at the end of an installation."""

GUARANTEES = Guarantees.of(
    "no yes no no no no part",
    "a call is allowed if the rate does not answer within 5 s; a flag of its scripts must be"
    " removed for other servers; otherwise as `limits`, sliding window",
)


class NodeError(LoadError):
    """A call in Node failed, or Node ended."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A `Caller` that makes its calls in a process of Node."""

    to: IO[str]
    answers: IO[str]

    def run(self, keys: Sequence[str]) -> list[int]:
        """Make calls in sequence, timed in Node."""
        return self._ask("run", keys)

    def race(self, shares: Sequence[Sequence[str]]) -> None:
        """Use a task per share, on one connection."""
        self._ask("race", shares)

    def _ask(self, command: str, keys: Sequence[object]) -> list[int]:
        print(json.dumps({"command": command, "keys": keys}), file=self.to, flush=True)
        answer = json.loads(self.answers.readline() or '{"error": "Node ended"}')
        if "error" in answer:
            raise NodeError(answer["error"])
        return list(answer["taken"])


def node_peers() -> tuple[tuple[Peer, ...], str]:
    """Return the peers in Node, or why there are none; installs libraries on first use."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return (), "Upstash's ratelimit is left out: there is no Node here"
    if not DONE.is_file():
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
        if subprocess.run(command, cwd=HERE, check=False, capture_output=True).returncode != 0:
            return (), "Upstash's ratelimit is left out: npm could not install it"
    made_of = _versions(node)
    upstash = Peer(
        "Upstash, sliding, ioredis",
        made_of,
        GUARANTEES,
        _opens(node, "upstash"),
        work.tally,
        work.revoke_token,
        IOREDIS,
    )
    through_node = partial(replace, made_of=made_of, client=IOREDIS)
    return (
        through_node(PLAIN, name=IOREDIS.floor, open=_opens(node, "set")),
        through_node(KEYLEASH, name=IOREDIS.ours, open=_opens(node, "keyleash")),
        upstash,
    ), ""


def _versions(node: str) -> str:
    shown = subprocess.run([node, "--version"], check=True, capture_output=True, text=True)
    packages = {
        name: json.loads((INSTALLED / name / "package.json").read_text(encoding="utf-8"))["version"]
        for name in ("@upstash/ratelimit", "ioredis")
    }
    libraries = ", ".join(f"{name} {version}" for name, version in packages.items())
    return f"{libraries}, node {shown.stdout.strip()}"


def _opens(node: str, way: str) -> Callable[[Bed], AbstractContextManager[Caller]]:
    return partial(_open, node, way)


@contextmanager
def _open(node: str, way: str, bed: Bed) -> Iterator[Remote]:
    server = urlsplit(bed.url)
    given = {
        "way": way,
        "host": server.hostname,
        "port": server.port,
        "identity": bed.identity,
        "token": bed.target.token,
        "digest": bed.target.guard.digest,
        "budget": bed.budget,
        "rate": work.RATE,
        "retain": work.RETAIN,
        "policy": work.POLICY,
        "value": VALUE,
    }
    with subprocess.Popen(
        [node, "calls.mjs"],
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        to, answers = process.stdin, process.stdout
        assert to is not None and answers is not None  # noqa: S101, PT018 - both are pipes
        print(json.dumps(given), file=to, flush=True)
        yield Remote(to, answers)
        to.close()
