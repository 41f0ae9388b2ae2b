"""Servers of a test's own in front of servers: TLS, Unix sockets, and what loses replies."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest


class Served:
    """An asyncio server on a free port of 127.0.0.1, in a thread of its own.

    Attributes:
        port: Where it listens; 0 if that is a Unix socket.
    """

    port = 0

    def __init__(self) -> None:
        self._serving = set[Any]()
        listening = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(listening)), daemon=True
        )
        self._thread.start()
        listening.wait()

    def stop(self) -> None:
        """End its connections and the thread."""
        # Its loop is closed if it has ended.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    async def serve(self, caller: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        """Serve one connection, which is closed afterwards."""
        raise NotImplementedError

    async def listen(self) -> asyncio.Server:
        """Begin to accept connections."""
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _run(self, listening: threading.Event) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        server = await self.listen()
        name = server.sockets[0].getsockname()
        self.port = 0 if isinstance(name, str) else name[1]
        listening.set()
        await self._ending.wait()
        # A connection that is being accepted while its server closes would be left open. To accept
        # one takes a step, to call its protocol another, and to begin to serve it the third.
        for socket in server.sockets:
            self._loop.remove_reader(socket.fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        server.close()

    async def _serve(self, caller: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        # asyncio holds no task that waits for the server after its caller has gone.
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            await self.serve(caller, answer)
        except asyncio.CancelledError:
            # Raised again, it would be logged. Closing would wait for the other side of TLS.
            answer.transport.abort()
        finally:
            self._serving.remove(task)
            answer.close()


class Front(Served):
    """Accepts connections and passes their bytes on to a server.

    Args:
        server_port: The server.
        address: The path of a Unix socket, or the folder of a certificate for TLS.
    """

    def __init__(self, server_port: int, address: Path) -> None:
        self._server_port = server_port
        self._address = address
        super().__init__()

    async def listen(self) -> asyncio.Server:
        if not self._address.is_dir():
            return await asyncio.start_unix_server(self._serve, self._address)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate(self._address))
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)

    async def serve(self, caller: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        reply, request = await asyncio.open_connection("127.0.0.1", self._server_port)
        with contextlib.closing(request):
            await asyncio.gather(_pass_on(caller, request), _pass_on(reply, answer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return a certificate of `localhost` and its key, which are made if they are not there."""
    files = folder / "certificate.pem", folder / "key.pem"
    if not files[0].exists():
        if shutil.which("openssl") is None:
            pytest.skip("openssl, which makes the certificate, is not installed")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        out = ("-out", files[0], "-keyout", files[1])
        subprocess.run(
            ["openssl", "req", "-x509", "-noenc", "-days", "2", *curve, *subject, *out],
            check=True,
            capture_output=True,
        )
    return files
