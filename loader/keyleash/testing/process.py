"""The embedded server of a whole test run, which ends with the run however the run ends."""

from __future__ import annotations

import contextlib
import subprocess

import redis

from keyleash.servers import EmbeddedServer

# A line on its input says that all ended well; the end of its input without one says that
# the run is gone, whatever took it.
WATCH = 'read -r word || kill -9 "$1"'


class RunServer:
    """
    An embedded server that tests use one after the other.

    A run that is killed (a cancelled job, pytest-timeout, a crash) runs no clean-up, and
    would leave its server behind. So a shell waits for the end of the run: it holds the
    reading end of a pipe, whose writing end goes with this process.
    """

    def __init__(self) -> None:
        self._server = EmbeddedServer()
        self._watch: subprocess.Popen[bytes] | None = None

    def emptied(self) -> EmbeddedServer:
        """The running server, without anything that the test before may have left."""
        try:
            if self._server.running:
                empty(self._server.url)
                return self._server
        except redis.RedisError:
            # The test before ended it, perhaps this instant, or wants a password of everyone.
            self._server.kill()
        self.stop()
        self._server.start()
        self._watch = _watch(self._server.pid)
        return self._server

    def stop(self) -> None:
        """End the server, and the watch over it."""
        self._server.stop()
        if self._watch is not None:
            self._watch.communicate(b"done\n")
            self._watch = None


def empty(url: str) -> None:
    """Take everything from a server that a test may have left: keys, scripts, functions, users."""
    with contextlib.closing(redis.Redis.from_url(url, decode_responses=True)) as admin:
        admin.flushall()
        admin.script_flush()
        admin.function_flush()
        for user in admin.acl_users():
            if user != "default":
                admin.acl_deluser(str(user))


def _watch(pid: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", WATCH, "keyleash-watch", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C is for the run, which then stops the server in good order.
        process_group=0,
    )
