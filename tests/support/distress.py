"""Servers that cannot do all that they should: full, read-only, without a disk, loading.

Each kind is brought about for real and ends with its `with` block, so that servers which
tests share are usable afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from support.replication import wait_until
from support.servers import RealServer

NOBODY = ("127.0.0.1", "1")
FULL_DISK = Path("/dev/full")
Begin = Callable[[RealServer], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Distress:
    """
    A way in which a server refuses.

    Attributes:
        name: Also the id of a parametrized test.
        code: What the server's error begins with.
        begin: Puts a server into it; ends it again.
        reads: Whether the server still answers commands that only read.
    """

    name: str
    code: str
    begin: Begin
    reads: bool

    def __str__(self) -> str:
        return self.name


def at_all_nodes(begin: Begin) -> Begin:
    """Bring about the same at each node, if the server is a cluster."""

    @functools.wraps(begin)
    @contextlib.contextmanager
    def begin_at_all(server: RealServer) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for node in server.nodes:
                stack.enter_context(begin(node))
            yield

    return begin_at_all


@at_all_nodes
@contextlib.contextmanager
def full_memory(server: RealServer) -> Iterator[None]:
    """More is used than `maxmemory`, and nothing may be evicted."""
    with _configured(server, {"maxmemory-policy": "noeviction", "maxmemory": "1"}):
        yield


@at_all_nodes
@contextlib.contextmanager
def too_few_replicas(server: RealServer) -> Iterator[None]:
    """A replica is wanted for each write, and there is none."""
    with _configured(server, {"min-replicas-to-write": "1"}):
        yield


@contextlib.contextmanager
def read_only_replica(server: RealServer) -> Iterator[None]:
    """A replica that has lost its primary serves what it has."""
    admin = server.client()
    admin.replicaof(*NOBODY)
    try:
        yield
    finally:
        admin.replicaof("NO", "ONE")


@contextlib.contextmanager
def primary_down(server: RealServer) -> Iterator[None]:
    """The same replica, configured not to serve stale data."""
    with _configured(server, {"replica-serve-stale-data": "no"}), read_only_replica(server):
        yield


@at_all_nodes
@contextlib.contextmanager
def failed_snapshot(server: RealServer) -> Iterator[None]:
    """The last BGSAVE could not put its file in place."""
    admin = server.client(decode_responses=True)
    in_the_way = _directory(admin) / _setting(admin, "dbfilename")
    in_the_way.unlink(missing_ok=True)
    in_the_way.mkdir()
    try:
        with _configured(server, {"save": "3600 1", "stop-writes-on-bgsave-error": "yes"}):
            admin.bgsave()
            wait_until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
            try:
                yield
            finally:
                in_the_way.rmdir()
                admin.save()
    finally:
        shutil.rmtree(in_the_way, ignore_errors=True)


@at_all_nodes
@contextlib.contextmanager
def full_disk(server: RealServer) -> Iterator[None]:
    """The append-only file grows no more: what it is written to is a device that is full."""
    admin, key = server.client(decode_responses=True), server.key("distress:")
    folder = _directory(admin) / _setting(admin, "appenddirname")
    folder.mkdir(exist_ok=True)
    # The name under which the server reopens the file when it is switched on.
    opened = folder / "temp-appendonly.aof.incr"
    opened.symlink_to(FULL_DISK)
    try:
        with _configured(server, {"appendonly": "yes"}):

            def has_failed() -> bool:
                with contextlib.suppress(redis.ResponseError):
                    admin.delete(key)
                    admin.set(key, "1")
                    admin.delete(key)
                return bool(admin.info("persistence")["aof_last_write_status"] == "err")

            wait_until(has_failed)
            yield
    finally:
        opened.unlink(missing_ok=True)
        admin.delete(key)


@contextlib.contextmanager
def loading(server: RealServer, primary: RealServer) -> Iterator[None]:
    """Loads what *primary* has, 33 keys of a kilobyte a second until the block ends, then all."""
    admin = server.client(decode_responses=True)
    slowly = {"key-load-delay": "30000", "loading-process-events-interval-bytes": "1024"}
    with contextlib.closing(primary.client()) as other:
        other.config_set("repl-diskless-sync-delay", 0)
    try:
        with _configured(server, slowly):
            admin.replicaof("127.0.0.1", str(primary.port))
            wait_until(lambda: admin.info("persistence")["loading"] == 1)
            yield
            assert admin.info("persistence")["loading"] == 1
        wait_until(lambda: admin.info("replication")["master_link_status"] == "up")
    finally:
        admin.replicaof("NO", "ONE")


DISTRESSES = (
    Distress("full-memory", "OOM", full_memory, reads=True),
    Distress("read-only-replica", "READONLY", read_only_replica, reads=True),
    Distress("primary-down", "MASTERDOWN", primary_down, reads=False),
    Distress("too-few-replicas", "NOREPLICAS", too_few_replicas, reads=True),
    Distress("failed-snapshot", "MISCONF", failed_snapshot, reads=True),
    Distress("full-disk", "MISCONF", full_disk, reads=True),
)


def _setting(admin: Any, name: str) -> str:
    return str(admin.config_get(name)[name])


def _directory(admin: Any) -> Path:
    return Path(_setting(admin, "dir"))


@contextlib.contextmanager
def _configured(server: RealServer, settings: dict[str, str]) -> Iterator[None]:
    admin = server.client(decode_responses=True)
    before = {name: _setting(admin, name) for name in settings}
    for name, value in settings.items():
        admin.config_set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            admin.config_set(name, value)
