"""TLS and unix sockets: what redis-py connects with, guarded clients connect with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import keyleash
from keyleash.addons.servers import EmbeddedServer
from keyleash.addons.servers.embedded import free_ports
from keyleash.errors.operations import OperationError, PortTakenError
from keyleash.operator.tokens.issue import issue_token
from keyleash.store.store import Store
from support.fronts import certificate
from support.leash import grant, policy
from support.loading import load_policy
from support.servers import find_server_binaries


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A server of the PATH that listens with TLS and on a unix socket, a policy loaded."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = certificate(folder)
    (port,) = free_ports(1)
    path = folder / "socket"
    settings = {
        "tls-port": str(port), "tls-cert-file": str(cert), "tls-key-file": str(key),
        "tls-auth-clients": "no", "unixsocket": str(path),
    }  # fmt: skip
    # Of those on the PATH: the embedded one is built without TLS.
    for binary in [*find_server_binaries().values()][1:]:
        server = EmbeddedServer(binary=binary, settings=settings)
        try:
            # Waits for a reply: the socket's file is there before the server listens.
            server.start()
        except PortTakenError:
            raise
        except OperationError:
            continue
        with server, contextlib.closing(redis.Redis(unix_socket_path=str(path))) as admin:
            store = Store(admin)
            load_policy(store, policy(one={"grants": [grant("read", "write", keys="t:*")]}))
            token = issue_token(store, "one").token
            yield {"port": port, "path": str(path), "ca": str(cert), "token": token}
            return
    pytest.skip("no server on the PATH has TLS")


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
