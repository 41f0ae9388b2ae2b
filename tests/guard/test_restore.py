"""RESTORE is for identities that name it: a corrupt payload can crash a server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import keyleash
from keyleash.addons.servers import EmbeddedServer
from support.leash import Leash, grant
from support.payloads import corrupted
from support.servers import RealServer, embedded_label, find_server_binaries

WIDE: dict[str, Any] = {"grants": [grant("read", "write", "delete", "scan", keys="doc:*")]}
NAMED: dict[str, Any] = {
    "grants": [*WIDE["grants"], grant("write", keys="doc:*", only=["RESTORE"])]
}
SETTING = "sanitize-dump-payload"


@pytest.fixture
def unvalidating(server: RealServer, tmp_path: Path) -> Iterator[tuple[EmbeddedServer, Any]]:
    """A server of the same kind that may crash, with `sanitize-dump-payload no`."""
    binary = find_server_binaries()[server.label]
    with EmbeddedServer(binary=binary, data=tmp_path / "data") as process:
        client = redis.Redis(port=process.port, retry=Retry(NoBackoff(), 0), socket_timeout=20)
        if client.config_get(SETTING):
            client.config_set(SETTING, "no")
        yield process, client
        client.close()


def test_crafted_payload_crashes_a_server_that_does_not_validate(
    server: RealServer, unvalidating: tuple[EmbeddedServer, Any]
) -> None:
    """The payload of the other tests is lethal where it is stored; Valkey 9.1 stores none."""
    process, client = unvalidating
    client.hset("doc:1", mapping={"field": "v"})
    payload = corrupted(client.dump("doc:1"))

    if server.label == embedded_label():
        with pytest.raises(redis.ResponseError, match="Bad data format"):
            client.restore("doc:2", 0, payload)
        return
    client.restore("doc:2", 0, payload)
    with pytest.raises(redis.ConnectionError):
        client.hgetall("doc:2")
    deadline_s = time.monotonic() + 60
    while process.running and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not process.running


@pytest.mark.parametrize(
    "grants",
    [
        WIDE["grants"],
        [grant("read", "write", keys="doc:*", only=["@keyspace", "@dangerous", "@write", "HSET"])],
        [grant("read", "write", keys="doc:*", only=["DUMP", "HSET"])],
        [*NAMED["grants"][:1], grant("read", keys="doc:*", only=["RESTORE"])],
    ],
    ids=["every class", "categories", "other names", "named without write"],
)
def test_agent_whose_grants_do_not_name_restore_cannot_store_a_payload(
    server: RealServer, grants: list[dict[str, Any]]
) -> None:
    """Neither a class nor a category gives RESTORE, alone or in a batch; the server stays up."""
    leash = Leash(server)
    leash.load(one={"grants": grants})
    leash.admin.hset("doc:{d}1", mapping={"field": "v"})
    payload = corrupted(leash.admin.dump("doc:{d}1"))
    agent = leash.agent("one")

    for name in ("RESTORE", "restore", "RESTORE-ASKING"):
        with pytest.raises((keyleash.CommandRefusedError, keyleash.ClassNotGrantedError)):
            agent.execute_command(name, "doc:{d}2", 0, payload, "REPLACE")
    batch = agent.pipeline(transaction=True)
    batch.hset("doc:{d}3", mapping={"field": "v"})
    batch.restore("doc:{d}2", 0, payload)
    with pytest.raises(keyleash.LeashError):
        batch.execute()

    assert leash.admin.keys("doc:*") == [b"doc:{d}1"]
    assert agent.hset("doc:{d}1", "{d}other", "v") == 1


def test_agent_whose_grant_names_restore_can_store_a_payload(server: RealServer) -> None:
    """On the keys of that grant; RESTORE-ASKING stays denied."""
    leash = Leash(server)
    leash.load(one=NAMED)
    agent: Any = leash.agent("one")
    agent.hset("doc:1", mapping={"field": "v"})

    assert agent.restore("doc:2", 0, agent.dump("doc:1")) == b"OK"
    assert agent.hgetall("doc:2") == {b"field": b"v"}
    with pytest.raises(keyleash.KeyNotGrantedError):
        agent.restore("other", 0, b"x")
    with pytest.raises(keyleash.CommandRefusedError):
        agent.execute_command("RESTORE-ASKING", "doc:3", 0, agent.dump("doc:1"))


def test_server_that_validates_rejects_the_crafted_payload(server: RealServer) -> None:
    """With the setting that `load` requires, a named RESTORE stores no corrupt listpack."""
    leash = Leash(server)
    leash.load(one=NAMED)
    agent: Any = leash.agent("one")
    agent.hset("doc:1", mapping={"field": "v"})
    payload = corrupted(agent.dump("doc:1"))
    has_setting = bool(leash.admin.config_get(SETTING))
    if has_setting:
        leash.admin.config_set(SETTING, "yes")
    try:
        with pytest.raises(redis.ResponseError, match="Bad data format"):
            agent.restore("doc:2", 0, payload)
    finally:
        if has_setting:
            leash.admin.config_set(SETTING, "no")

    assert agent.exists("doc:2") == 0
