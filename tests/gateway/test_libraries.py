"""Clients and libraries of many languages, by a URL alone, through `keyleash gateway`.

The whole matrix is `make clients`, which writes the page; here runs what is installed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.libraries import (
    BULL,
    BULLMQ,
    CLIS,
    IOREDIS,
    OTHERS,
    REDIS_PY,
    REDIS_PY_ASYNCIO,
    Client,
    Matrix,
)
from support.command_line import Cli
from support.gateways import gateway_process
from support.servers import RealServer

QUICK = [*CLIS, REDIS_PY, REDIS_PY_ASYNCIO]
NODE = [IOREDIS, BULLMQ, BULL]
CLIENTS = [*QUICK, *NODE, *OTHERS]
PAGE = os.environ.get("KEYLEASH_CLIENTS_PAGE")


@pytest.fixture(scope="session")
def matrix() -> Iterator[Matrix]:
    """The results; `make clients` writes the page when every client ran."""
    matrix = Matrix()
    yield matrix
    if PAGE and {client.name for client in CLIENTS} <= set(matrix.rows):
        Path(PAGE).write_text(matrix.page(CLIENTS), encoding="utf-8")


@pytest.mark.parametrize(
    "client",
    [
        *QUICK,
        *(pytest.param(client, marks=pytest.mark.node) for client in NODE),
        *(pytest.param(client, marks=pytest.mark.slow) for client in OTHERS),
    ],
    ids=lambda client: client.name,
)
def test_client_runs_by_its_url_alone(
    client: Client, matrix: Matrix, embedded: RealServer, tmp_path: Path
) -> None:
    """Every step of its program has the expected values, in each protocol."""
    version = client.version()
    if not version:
        assert not PAGE, f"{client.name} is not installed"
        pytest.skip(f"{client.name} is not installed")
    cli, admin = Cli(embedded.url), embedded.client()
    cli.ok("load", client.prepare(tmp_path), "--yes")
    token = cli.token("agent-runner")
    ran = {}
    with gateway_process(cli) as port:
        url = f"redis://agent-runner:{token}@127.0.0.1:{port}"
        for protocol in client.protocols:
            features = client.run(tmp_path, url, protocol)
            assert {item["feature"]: item["error"] for item in features if item["error"]} == {}
            ran[protocol] = [item["feature"] for item in features]
            for key in admin.scan_iter("agents:*"):
                admin.delete(key)
    assert min(map(len, ran.values())) >= 3
    denials = cli.lines("audit", "log", "--denied")
    assert "KEY_NOT_GRANTED" in {denial["code"] for denial in denials}
    if client.correlation:
        assert client.correlation in {event["correlation"] for event in cli.lines("audit", "log")}
    matrix.rows[client.name] = version, ran
