"""Where the secret part of a token goes, and where it does not."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from keyleash.operator.tokens.issue import issue_token
from keyleash.operator.tokens.revoke import revoke
from support.leash import Leash, grant

QUIET_S = 0.3
END = "the_end_of_it"


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
    leash.call("one", token, "SET", "k:{d}a", "v")
    leash.call("one", token, "GET", "k:{d}a")
    leash.call("one", token, "GET", "{d}elsewhere")
    leash.call("one", token, "LPUSH", "k:{d}a", "v")
    leash.batch("one", token, "each", ("SET", "k:{d}b", "v"), ("GET", "{d}elsewhere"))
    leash.raw("one", ["k:{d}a"], token[:-1], "c", "GET", "k:{d}a")
    revoke(leash.store, token_id=issued.id)
    leash.call("one", token, "GET", "k:{d}a")
    return token.encode()


def secret_of(token: bytes) -> bytes:
    return token.split(b"_", 2)[2]


@contextlib.contextmanager
def listening(leash: Leash, *words: str) -> Iterator[bytearray]:
    """Collect what each node sends to a client that sent *words*, until the block ends."""
    heard = bytearray()
    with contextlib.ExitStack() as stack:
        connections = []
        for node in leash.server.nodes:
            address = ("127.0.0.1", node.port)
            connections.append(stack.enter_context(socket.create_connection(address)))
            connections[-1].sendall(" ".join(words).encode() + b"\r\n")
            heard += connections[-1].recv(1 << 16)
            connections[-1].settimeout(QUIET_S)
        yield heard
        for node, connection in zip(leash.nodes, connections, strict=True):
            # Every node has it replicated, and none needs a key of its own slots.
            node.function_load(f"#!lua name=end\nredis.register_function('{END}', function() end)")
            part = bytearray()
            while END not in part.decode("latin-1"):
                part += connection.recv(1 << 16)
            heard += part


@pytest.fixture
def directories(leash: Leash) -> Iterator[list[Path]]:
    """Where the nodes write; with an append-only file, and nothing compressed."""
    for node in leash.nodes:
        node.config_set("rdbcompression", "no")
        node.config_set("appendonly", "yes")
    await_rewrites(leash)
    try:
        yield [Path(str(node.config_get("dir")["dir"])) for node in leash.nodes]
    finally:
        for node in leash.nodes:
            node.config_set("appendonly", "no")
            node.config_set("rdbcompression", "yes")


def await_rewrites(leash: Leash) -> None:
    while any(node.info("persistence")["aof_rewrite_in_progress"] for node in leash.nodes):
        time.sleep(0.01)


def test_files_of_the_server_never_hold_a_token(leash: Leash, directories: list[Path]) -> None:
    """Backups are read by others than those who may act."""
    token = work(leash)
    for node in leash.nodes:
        node.bgrewriteaof()
    await_rewrites(leash)
    again = work(leash)
    for node in leash.nodes:
        node.save()

    files = [file for folder in directories for file in folder.rglob("*") if file.is_file()]
    written = {str(file): file.read_bytes() for file in files}
    assert any(name.endswith(".rdb") for name in written)
    assert any(b"{d}elsewhere" in content for content in written.values())
    for name, content in written.items():
        assert secret_of(token) not in content, name
        assert secret_of(again) not in content, name


def test_replicas_never_see_a_token(leash: Leash) -> None:
    """The effects of a script are replicated, and not its arguments."""
    with listening(leash, "SYNC") as heard:
        token = work(leash)

    assert b"k:{d}a" in heard
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
    for node in leash.nodes:
        node.config_set("slowlog-log-slower-than", 0)
        node.slowlog_reset()
    try:
        token = secret_of(work(leash))
        node = leash.server.node_of("k:{d}a")
        admin = node.client()
        admin.acl_setuser("weak", enabled=True, nopass=True, commands=["+evalsha"], keys="*")
        with pytest.raises(redis.ResponseError) as caught:
            node.client(username="weak", password="x").execute_command(
                "EVALSHA", leash.digest("one"), 1, "k:{d}a", token, "c", "GET", "k:{d}a"
            )
        entries = [entry for node in leash.nodes for entry in node.slowlog_get(100)]
        slow = b"\n".join(entry["command"] for entry in entries)
    finally:
        for node in leash.nodes:
            node.config_set("slowlog-log-slower-than", 10_000)
            node.slowlog_reset()

    assert token in slow
    for shown in (admin.client_list(), admin.acl_log(), caught.value):
        assert token.decode() not in str(shown)
