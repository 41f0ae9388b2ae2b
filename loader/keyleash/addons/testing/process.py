"""The embedded servers of a test run, which end with the run, also if that is killed."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Generic, TypeVar

import redis

from keyleash.addons.servers import EmbeddedCluster, EmbeddedServer

# A line on its input means a clean end; the end of its input without a line means that the run
# was killed.
WATCH = 'read -r word || kill -9 "$@"'

S = TypeVar("S", bound=EmbeddedServer | EmbeddedCluster)


class RunServer(Generic[S]):
    """An embedded server or cluster that tests use one after the other.

    A killed run (a cancelled job, pytest-timeout, a crash) runs no clean-up and would leave its
    server behind. So a shell waits for the end of the run: it holds the reading end of a pipe,
    whose writing end is closed when this process ends.
    """

    def __init__(self, server: S) -> None:
        self._server = server
        self._watch: subprocess.Popen[bytes] | None = None

    def emptied(self) -> S:
        """Return the running server, emptied of the data of the previous test."""
        nodes = self._nodes()
        try:
            if nodes and all(node.running for node in nodes):
                for node in nodes:
                    empty(node.url)
                return self._server
        except redis.RedisError:
            # The previous test stopped it, possibly just now, or set a password.
            for node in nodes:
                node.kill()
        self.close()
        self._server.start()
        self._watch = _watch([node.pid for node in self._nodes()])
        return self._server

    def close(self) -> None:
        """Stop the server and its watcher."""
        self._server.stop()
        if self._watch is not None:
            self._watch.communicate(b"done\n")
            self._watch = None

    def _nodes(self) -> list[EmbeddedServer]:
        return self._server.nodes if isinstance(self._server, EmbeddedCluster) else [self._server]


def empty(url: str) -> None:
    """Delete all keys, scripts, functions and users of a server."""
    with contextlib.closing(redis.Redis.from_url(url, decode_responses=True)) as admin:
        with admin.pipeline(transaction=False) as pipe:
            pipe.flushall()
            pipe.script_flush()
            pipe.function_flush()
            pipe.acl_users()
            *_, users = pipe.execute()
        for user in users:
            if user != "default":
                admin.acl_deluser(str(user))


def _watch(pids: list[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", WATCH, "keyleash-watch", *map(str, pids)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C reaches only the run, which then stops the server.
        process_group=0,
    )
