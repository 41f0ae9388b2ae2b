"""TLS and unix sockets: what redis-py connects with, guarded clients connect with."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import keyleash
from keyleash.operator.tokens.issue import issue_token
from keyleash.store.store import Store
from support.leash import grant, policy
from support.loading import load_policy
from support.servers import find_server_binaries

OPENSSL = (
    "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
    "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
)  # fmt: skip


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A server of the PATH that listens with TLS and on a unix socket, a policy loaded."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not there")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    making: list[str | Path] = [*OPENSSL, "-keyout", key, "-out", certificate]
    subprocess.run(making, check=True, capture_output=True)
    # Of those on the PATH: the embedded one is built without TLS.
    for binary in [*find_server_binaries().values()][1:]:
        with served(binary, folder, key, certificate) as where:
            if where is not None:
                yield where
                return
    pytest.skip("no server on the PATH has TLS")


@contextlib.contextmanager
def served(
    binary: Path, folder: Path, key: Path, certificate: Path
) -> Iterator[dict[str, Any] | None]:
    """Run a server; None if it ends at once, as one without TLS does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = folder / "socket"
    options = {
        "--port": "0", "--tls-port": port, "--unixsocket": path, "--save": "", "--dir": folder,
        "--tls-cert-file": certificate, "--tls-key-file": key, "--tls-auth-clients": "no",
    }  # fmt: skip
    words = [str(word) for option in options.items() for word in option]
    process = subprocess.Popen([binary, *words], stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and not path.exists():
            time.sleep(0.01)
        if process.poll() is not None:
            yield None
            return
        admin: Any = redis.Redis(unix_socket_path=str(path))
        load_policy(Store(admin), policy(one={"grants": [grant("read", "write", keys="t:*")]}))
        token = issue_token(Store(admin), "one").token
        admin.close()
        yield {"port": port, "path": str(path), "ca": str(certificate), "token": token}
    finally:
        process.terminate()
        process.wait()


def ways(secured: dict[str, Any], cls: Any) -> Iterator[Any]:
    """Clients that reach the server in every way that redis-py has."""
    token, tls = secured["token"], {"ssl_ca_certs": secured["ca"]}
    yield cls(host="localhost", port=secured["port"], ssl=True, token=token, **tls)
    yield cls.from_url(f"rediss://localhost:{secured['port']}", token=token, **tls)
    yield cls(unix_socket_path=secured["path"], token=token)
    yield cls.from_url(f"unix://{secured['path']}", token=token)


def test_guarded_client_speaks_tls_and_unix_sockets(secured: dict[str, Any]) -> None:
    """The arguments for a connection are redis-py's own."""
    for client in ways(secured, keyleash.Redis):
        with client:
            assert client.set("t:a", "x") is True
            assert client.pipeline().get("t:a").execute() == [b"x"]


def test_async_guarded_client_speaks_tls_and_unix_sockets(secured: dict[str, Any]) -> None:
    """So is it with the async client."""

    async def use() -> None:
        for client in ways(secured, keyleash.asyncio.Redis):
            async with client:
                assert await client.set("t:a", "x") is True
                assert await client.pipeline().get("t:a").execute() == [b"x"]

    asyncio.run(use())


def test_certificate_that_nobody_vouches_for_is_refused(secured: dict[str, Any]) -> None:
    """A guarded client is no laxer than redis-py's."""
    client = keyleash.Redis(
        host="localhost", port=secured["port"], ssl=True, token=secured["token"]
    )

    with pytest.raises(redis.ConnectionError, match="certificate"):
        client.get("t:a")
