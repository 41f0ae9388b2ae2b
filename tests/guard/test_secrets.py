"""Where the secret part of a token goes, and where it does not."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from keyleash.operator.tokens import issue_token, revoke
from support.leash import Leash, grant

QUIET_S = 0.3


def work(leash: Leash) -> bytes:
    """A token's whole life: issued, used, refused, misused, revoked; returns it."""
    leash.load(
        one={
            "grants": [grant("read", "write", keys="k:*")],
            "rate": {"requests": {"limit": "100/minute", "per": "token"}},
            "token": {"ttl": "1h", "idle": "15m"},
            "audit": {"reads": True, "values": "full", "before_images": {"max_bytes": "64kb"}},
        }
    )
    issued = issue_token(leash.store, "one", note="for a test")
    token = issued.token
    leash.call("one", token, "SET", "k:a", "v")
    leash.call("one", token, "GET", "k:a")
    leash.call("one", token, "GET", "elsewhere")
    leash.call("one", token, "LPUSH", "k:a", "v")
    leash.batch("one", token, "each", ("SET", "k:b", "v"), ("GET", "elsewhere"))
    leash.raw("one", ["k:a"], token[:-1], "c", "GET", "k:a")
    revoke(leash.store, token_id=issued.id)
    leash.call("one", token, "GET", "k:a")
    return token.encode()


def secret_of(token: bytes) -> bytes:
    return token.split(b"_", 2)[2]


@contextlib.contextmanager
def listening(leash: Leash, *words: str) -> Iterator[bytearray]:
    """Collect the bytes sent to a client that sent *words*, until the block ends."""
    heard = bytearray()
    with socket.create_connection(("127.0.0.1", leash.server.port)) as connection:
        connection.sendall(" ".join(words).encode() + b"\r\n")
        heard += connection.recv(1 << 16)
        connection.settimeout(QUIET_S)
        yield heard
        leash.admin.set("the-end", "of-it")
        while b"the-end" not in heard:
            heard += connection.recv(1 << 16)


@pytest.fixture
def directory(leash: Leash) -> Iterator[Path]:
    """Where the server writes; with an append-only file, and nothing compressed."""
    admin = leash.admin
    admin.config_set("rdbcompression", "no")
    admin.config_set("appendonly", "yes")
    while admin.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.01)
    try:
        yield Path(str(admin.config_get("dir")["dir"]))
    finally:
        admin.config_set("appendonly", "no")
        admin.config_set("rdbcompression", "yes")


def test_files_of_the_server_never_hold_a_token(leash: Leash, directory: Path) -> None:
    """Backups are read by others than those who may act."""
    token = work(leash)
    leash.admin.bgrewriteaof()
    while leash.admin.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.01)
    again = work(leash)
    leash.admin.save()

    files = [file for file in directory.rglob("*") if file.is_file()]
    written = {file.name: file.read_bytes() for file in files}
    assert any(name.endswith(".rdb") for name in written)
    assert any(b"elsewhere" in content for content in written.values())
    for name, content in written.items():
        assert secret_of(token) not in content, name
        assert secret_of(again) not in content, name


def test_replicas_never_see_a_token(leash: Leash) -> None:
    """The effects of a script are replicated, and not its arguments."""
    with listening(leash, "SYNC") as heard:
        token = work(leash)

    assert b"k:a" in heard
    assert secret_of(token) not in heard


def test_only_the_calls_themselves_carry_a_token(leash: Leash) -> None:
    """MONITOR sees calls as they come in; issuing, listing and revoking carry hashes and ids."""
    with listening(leash, "MONITOR") as heard:
        token = work(leash)

    lines = [line for line in bytes(heard).split(b"\r\n") if secret_of(token) in line]
    assert lines
    assert all(b'"EVALSHA"' in line for line in lines)


def test_logs_of_the_server_are_as_the_docs_say(leash: Leash) -> None:
    """A slow call stands in the slow log with its token; clients and refusals by ACL do not."""
    leash.admin.config_set("slowlog-log-slower-than", 0)
    leash.admin.slowlog_reset()
    try:
        token = secret_of(work(leash))
        leash.admin.acl_setuser("weak", enabled=True, nopass=True, commands=["+evalsha"], keys="*")
        with pytest.raises(redis.ResponseError) as caught:
            leash.server.client(username="weak", password="x").execute_command(
                "EVALSHA", leash.digest("one"), 1, "k:a", token, "c", "GET", "k:a"
            )
        slow = b"\n".join(entry["command"] for entry in leash.admin.slowlog_get(100))
    finally:
        leash.admin.config_set("slowlog-log-slower-than", 10_000)
        leash.admin.slowlog_reset()

    assert token in slow
    for shown in (leash.admin.client_list(), leash.admin.acl_log(), caught.value):
        assert token.decode() not in str(shown)
