"""Connections that try to reach what agents share, or to take it from others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.gateways import Raw, ServedGateway
from support.leash import Leash

Connect = Callable[..., Raw]
STATES = [(), (("WATCH", "k:a"),), (("MULTI",),)]


def upstream(leash: Leash) -> list[dict[str, str]]:
    """Return name, flags and database of the gateway's connections to the server."""
    clients: Any = leash.admin.client_list()
    return [
        {field: client[field] for field in ("name", "flags", "db")}
        for client in clients
        if client["id"] != str(leash.admin.client_id())
    ]


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("head", ["CLIENT ", "CLIENT\t", "CLIENT", "KEYLEASH ONCE a CLIENT"])
def test_no_client_command_reaches_the_shared_connection(
    one_leash: Leash,
    one_gateway: ServedGateway,
    connect: Connect,
    head: str,
    before: tuple[tuple[str, ...], ...],
) -> None:
    """Neither in a watch, nor with an id, nor with a blank in its name."""
    raw = connect(one_gateway.port, one_leash.issue("one").token)
    name = [head] if head[-1].isspace() else head.split()
    for words in before:
        raw.call(*words)

    for sub, *more in (("INFO",), ("SETNAME", "forged"), ("NO-TOUCH", "ON"), ("TRACKINGINFO",)):
        command = [f"{name[0]}{sub}"] if len(name) == 1 and head != "CLIENT" else [*name, sub]
        reply = raw.call(*command, *more)
        assert b"laddr=" not in reply
        assert b"redirect" not in reply

    assert {client["name"] for client in upstream(one_leash)} == {"keyleash-gateway"}
    assert {client["flags"] for client in upstream(one_leash)} <= {"N", "x"}
