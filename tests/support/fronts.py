"""A server's address by TLS or a Unix socket, for servers that listen on TCP alone."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import threading
from pathlib import Path

import pytest


class Front(threading.Thread):
    """Accepts connections and passes their bytes on to a server.

    Attributes:
        port: Where it accepts TLS connections, unless it has a Unix socket.

    Args:
        server_port: The server.
        address: The path of a Unix socket, or the folder of a certificate.
    """

    def __init__(self, server_port: int, address: Path) -> None:
        super().__init__(daemon=True)
        self._server_port = server_port
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._is_listening = threading.Event()
        self.port = 0
        self.start()
        self._is_listening.wait()

    def run(self) -> None:
        self._loop.run_until_complete(self._listen())
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        if self._address.is_dir():
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate(self._address))
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
            self.port = server.sockets[0].getsockname()[1]
        else:
            await asyncio.start_unix_server(self._serve, self._address)
        self._is_listening.set()

    async def _serve(self, caller: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        reply, request = await asyncio.open_connection("127.0.0.1", self._server_port)
        try:
            await asyncio.gather(_pass_on(caller, request), _pass_on(reply, answer))
        finally:
            request.close()
            answer.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()


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
