"""SIGKILL of the archiver and of the server: every event is exported, once."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import keyleash
from keyleash.addons.export.run import recorded_by_server
from keyleash.addons.export.verify import verify_archive
from keyleash.addons.servers import EmbeddedServer
from keyleash.addons.servers.embedded import retried
from keyleash.store.store import Store
from support import archives
from support.archives import KEYS, add_events, archived, export, stored, unrecorded
from support.leash import Leash, grant
from support.replication import PATIENCE_S
from support.servers import RealServer, find_server_binaries
from support.streams import command_of

ALL: dict[str, Any] = {
    "grants": [grant("read", "write", keys="t:*")],
    "audit": {"retain": 10_000_000},  # the stream is what the archive is compared with
}
ARCHIVER_KILLS = 40
SERVER_KILLS = 8
THREADS = 2
PAUSE_S = 0.0005
FILE_ENTRIES = 40


@pytest.fixture(scope="module")
def forks() -> Any:
    """Processes that begin at once, so that many can be killed, and inherit no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["keyleash.addons.export.run", "keyleash.policy.schema", "redis"]
    )
    return context


@pytest.fixture(params=list(find_server_binaries()))
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    binary = find_server_binaries()[request.param]
    with EmbeddedServer(data=tmp_path / "data", appendfsync="always", binary=binary) as process:
        yield process


class Writers:
    """Threads that write through one guard until they are stopped, or the server is gone."""

    def __init__(self, client: keyleash.Redis) -> None:
        self.client = client
        self.acknowledged: set[str] = set()
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()
        self._ending = threading.Event()

    def work(self) -> None:
        self._ending.clear()
        while not self._ending.is_set():
            with self._lock:
                key = f"t:{next(self._numbers)}"
            try:
                self.client.set(key, "x")
            except (redis.ConnectionError, redis.TimeoutError):
                return
            self.acknowledged.add(key)
            time.sleep(PAUSE_S)

    def end(self) -> None:
        self._ending.set()


def archiver(forks: Any, url: str, to: Path) -> BaseProcess:
    """Start an archiver; the caller ends it."""
    begun = forks.Event()
    process: BaseProcess = forks.Process(
        target=archives.run_again_and_again, args=(begun, url, str(to), FILE_ENTRIES)
    )
    process.start()
    assert begun.wait(PATIENCE_S)
    return process


def assert_exported_once(admin: Any, to: Path, streams: dict[str, str]) -> None:
    """A last run leaves in the archive what is in the streams, and the server's record of it."""
    export(admin, to)
    for trail, stream in streams.items():
        assert archived(to, trail) == stored(admin, stream)
        assert unrecorded(admin, trail, stream) == 0
    report = verify_archive(to, recorded_by_server(Store(admin)))
    assert report.is_valid, report.findings
    assert not any(stream.notes for stream in report.streams)
    assert not any(path.suffix == ".tmp" for path in to.rglob("*"))


STREAMS = {
    "audit/one": KEYS.audit("one"),
    "denied/one": KEYS.denied("one"),
    "control": KEYS.control,
}


@pytest.mark.slow
def test_archiver_that_is_killed_at_any_moment_loses_nothing(
    server: RealServer, forks: Any, tmp_path: Path
) -> None:
    """It is killed forty times, at random moments, while two threads write."""
    to = tmp_path / "archive"
    leash = Leash(server)
    leash.load(one=ALL)
    writers = Writers(leash.agent("one"))
    with pytest.raises(keyleash.KeyNotGrantedError):
        writers.client.set("u:a", 1)
    moments, longest_s = random.Random(20260201), 0.12

    with ThreadPoolExecutor(THREADS) as pool:
        working = [pool.submit(writers.work) for _ in range(THREADS)]
        try:
            for _ in range(ARCHIVER_KILLS):
                process = archiver(forks, server.url, to)
                # From before the first call to some files later, also on a busy machine.
                time.sleep(moments.uniform(0.0, longest_s))
                if len(archived(to, "audit/one")) <= FILE_ENTRIES:
                    longest_s *= 1.2
                assert process.is_alive()
                process.kill()
                process.join(PATIENCE_S)
        finally:
            writers.end()
        for work in working:
            work.result(PATIENCE_S)

    assert len(archived(to, "audit/one")) > FILE_ENTRIES
    assert_exported_once(leash.admin, to, STREAMS)
    assert len(archived(to, "audit/one")) == len(writers.acknowledged)
    server.close_clients()


@pytest.mark.parametrize("is_trimmed", [False, True])
def test_archiver_that_is_killed_before_each_of_its_steps_loses_nothing(
    embedded: RealServer, forks: Any, tmp_path: Path, is_trimmed: bool
) -> None:
    """Between any two calls of the server or the disk, and within a write, one after the other."""
    to = tmp_path / "archive"
    admin = embedded.client()
    stream = KEYS.audit("one")
    if is_trimmed:
        Leash(embedded).load(one={**ALL, "audit": {"retain": {"until": "exported", "hard_max": 1}}})
    steps = 0
    while True:
        steps += 1
        add_events(admin, "one", range(steps * 5 - 4, steps * 5 + 1))
        process = forks.Process(target=archives.run_until, args=(steps, embedded.url, str(to), 2))
        process.start()
        process.join(PATIENCE_S)
        if process.exitcode == 0:
            break
        assert process.exitcode == -9
        # An entry is in the stream, in the archive, or in both.
        entries = [*archived(to, "audit/one"), *stored(admin, stream)]
        numbers = {int(dict(fields)[b"seq"]) for _, fields in entries}
        assert numbers == {*range(1, steps * 5 + 1)}
        if steps % 3 == 0:
            # A whole run in between; otherwise one crash meets what another one left.
            export(admin, to, max_entries=2)
    assert steps > 40
    if is_trimmed:
        assert stored(admin, stream) == []
        assert len(archived(to, "audit/one")) == steps * 5
    else:
        assert_exported_once(admin, to, {"audit/one": stream})
    assert verify_archive(to).is_valid


def test_server_that_is_killed_at_any_moment_loses_no_event_of_the_export(
    process: EmbeddedServer, forks: Any, tmp_path: Path
) -> None:
    """No mutation without its event, and no event that is lost or there twice."""
    to = tmp_path / "archive"
    server = RealServer("killable", process)
    leash = Leash(server)
    leash.load(one=ALL)
    writers = Writers(leash.agent("one", retry=Retry(NoBackoff(), 0)))
    moments = random.Random(20260202)

    for _ in range(SERVER_KILLS):
        with ThreadPoolExecutor(THREADS) as pool:
            working = [pool.submit(writers.work) for _ in range(THREADS)]
            exporting = archiver(forks, server.url, to)
            time.sleep(moments.uniform(0.05, 0.4))
            process.kill()
            exporting.join(PATIENCE_S)
            for work in working:
                work.result(PATIENCE_S)
        assert exporting.exitcode is not None
        retried(process.start, 100)

    assert_exported_once(leash.admin, to, STREAMS)
    fields = [dict(pairs) for _, pairs in archived(to, "audit/one")]
    exported = Counter(command_of(field)[1].decode() for field in fields)
    mutated = {key.decode() for key in leash.admin.scan_iter("t:*", count=1000)}
    assert set(exported) == mutated >= writers.acknowledged
    assert set(exported.values()) == {1}
    server.close_clients()
