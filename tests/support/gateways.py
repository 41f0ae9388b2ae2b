"""Gateways of tests, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

from keyleash.gateway.serve import Gateway
from keyleash.gateway.upstream import Upstream
from support.command_line import Cli


class ServedGateway:
    """A gateway that listens on a free port of an address.

    Attributes:
        gateway: The gateway; touch it by `call` alone.
        port: The port for agents.
        admin: The port for health and metrics.
    """

    def __init__(
        self,
        upstream: Upstream,
        tls: ssl.SSLContext | None = None,
        path: str | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._upstream, self._tls, self._path, self._host = upstream, tls, path, host
        listening = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(listening,), daemon=True)
        self._thread.start()
        listening.wait()
        if self._failure is not None:
            raise self._failure

    def _run(self, listening: threading.Event) -> None:
        try:
            asyncio.run(self._serve(listening))
        except BaseException as error:
            self._failure = error
        finally:
            listening.set()

    async def _serve(self, listening: threading.Event) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        await self._upstream.open()
        self.gateway = Gateway(self._upstream)
        self.port = await self.gateway.listen(self._host, 0, self._path, self._tls)
        self.admin = await self.gateway.listen_for_admin("127.0.0.1", 0)
        sweeping = self._loop.create_task(self.gateway.sweep())
        listening.set()
        await self._ending.wait()
        sweeping.cancel()
        await self.gateway.drain()

    def call(self, function: Any, *args: Any) -> Any:
        """Call a function, or a coroutine function, in the thread of the gateway."""

        async def run() -> Any:
            result = function(*args)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    @property
    def busy(self) -> int:
        """The number of agents that wait for a command."""
        waiting = (item.under_way is not None for item in self.gateway.connections)
        return int(self.call(sum, waiting))

    def stop(self) -> None:
        """Drain it."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()


@contextlib.contextmanager
def gateway_to(url: str, **options: Any) -> Iterator[ServedGateway]:
    """Serve a gateway to the server at *url*."""
    served = ServedGateway(Upstream(url), **options)
    try:
        yield served
    finally:
        served.stop()


class Raw:
    """A client that sends and receives bytes."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), timeout=20)
        self._file = self.socket.makefile("rb")

    def send(self, *commands: tuple[Any, ...]) -> None:
        """Send commands in one packet."""
        self.socket.sendall(b"".join(map(request, commands)))

    def reply(self) -> bytes:
        """Return the bytes of one reply; empty if the connection was closed."""
        line = self._file.readline()
        if not line:
            return b""
        kind, rest = line[:1], line[1:-2]
        if kind in b"$=" and rest != b"-1":
            return line + self._file.read(int(rest) + 2)
        if kind in b"*~>%" and rest != b"-1":
            count = int(rest) * (2 if kind == b"%" else 1)
            return line + b"".join(self.reply() for _ in range(count))
        return line

    def call(self, *words: Any) -> bytes:
        """Send a command; return the bytes of its reply."""
        self.send(words)
        return self.reply()

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.socket.close()


def request(words: tuple[Any, ...]) -> bytes:
    """Return the bytes of a command."""
    texts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    parts = (b"$%d\r\n%b\r\n" % (len(text), text) for text in texts)
    return b"*%d\r\n" % len(texts) + b"".join(parts)


@contextlib.contextmanager
def gateway_process(cli: Cli, *options: str) -> Iterator[int]:
    """Run `keyleash gateway` to the server of *cli*; yield its port."""
    free = "127.0.0.1:0"
    with cli.spawn(("gateway", "--listen", free, "--admin", free, *options)) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, process.communicate()[1]
        yield int(url.rpartition(":")[2])
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in errors) == (0, False), errors
