"""SIGKILL at any moment: what was acknowledged holds, and nothing holds without its event."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

import keyleash
from keyleash.addons.servers import EmbeddedServer
from keyleash.addons.servers.embedded import retried
from keyleash.operator.suspension import freeze, thaw
from keyleash.operator.tokens.list import TokenState, list_tokens
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.records import read_active
from keyleash.store.state import IdentityState, Layout, unpack_state
from support.leash import NAMES, Leash, grant, policy
from support.replication import PATIENCE_S
from support.servers import RealServer, find_server_binaries
from support.streams import command_of
from support.thorough import FACTOR

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="t:*")]}
THREADS = 4
ROUNDS = 10 * FACTOR


class KillableServer(EmbeddedServer):
    """A server that keeps its data, and ends as in a crash."""

    def crash(self) -> None:
        self.kill()
        self.start()


@pytest.fixture(params=list(find_server_binaries()))
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KillableServer]:
    binary = find_server_binaries()[request.param]
    with KillableServer(data=tmp_path, appendfsync="always", binary=binary) as process:
        yield process


@pytest.fixture
def leash(process: KillableServer) -> Iterator[Leash]:
    server = RealServer("killable", process)
    try:
        yield Leash(server)
    finally:
        server.close_clients()


def state_of(leash: Leash, identity: str) -> IdentityState:
    raw: Any = leash.admin.hget(NAMES.layouts, identity)
    return unpack_state(leash.state(identity), Layout.from_json(raw))


def test_client_goes_on_after_a_crash_as_if_nothing_had_been(
    process: KillableServer, leash: Leash
) -> None:
    """The same client reconnects, and loads the script that a crash removes."""
    leash.load(one=ALL)
    client = leash.agent("one")
    client.set("t:a", "before")
    process.crash()

    assert leash.admin.script_exists(leash.digest("one")) == [False]
    assert client.get("t:a") == b"before"
    assert client.set("t:a", "after") is True
    assert leash.admin.script_exists(leash.digest("one")) == [True]


def test_policy_is_active_after_a_crash(process: KillableServer, leash: Leash) -> None:
    """The same generation and rules; to load it again changes nothing."""
    loaded = leash.load(one=ALL, two=ALL)
    client = leash.agent("one")
    client.ping()
    process.crash()

    active = read_active(leash.store)
    assert active is not None
    assert (active.generation, active.digest) == (loaded.generation, loaded.digest)
    assert leash.load(one=ALL, two=ALL).changed is False
    with pytest.raises(keyleash.KeyNotGrantedError):
        client.get("u:a")


def test_tokens_are_what_they_were_after_a_crash(process: KillableServer, leash: Leash) -> None:
    """Live ones work, a revoked one stays revoked, and each is still listed."""
    leash.load(one=ALL)
    live, gone = leash.issue("one"), leash.issue("one")
    revoke(leash.store, token_id=gone.id)
    process.crash()

    states = {info.id: info.state for info in list_tokens(leash.store)}
    assert states == {live.id: TokenState.LIVE, gone.id: TokenState.REVOKED}
    assert leash.client(live.token).ping() is True
    with pytest.raises(keyleash.TokenRevokedError):
        leash.client(gone.token).ping()


def test_suspended_identity_stays_suspended_after_a_crash(
    process: KillableServer, leash: Leash
) -> None:
    """And a resumed one does not."""
    leash.load(one=ALL, two=ALL)
    first, second = leash.agent("one"), leash.agent("two")
    for name in ("one", "two"):
        freeze(leash.store, name, reason="x")
    thaw(leash.store, "two")
    process.crash()

    with pytest.raises(keyleash.SuspendedError):
        first.set("t:a", 1)
    assert second.set("t:a", 1) is True


LIMITS: dict[str, tuple[dict[str, Any], type[keyleash.LeashError]]] = {
    "budget": ({"budget": {"writes": "7/month"}}, keyleash.BudgetExhaustedError),
    "rate": ({"rate": {"writes": "7/hour"}}, keyleash.RateLimitedError),
    "burst": ({"rate": {"writes": {"limit": "1/hour", "burst": 7}}}, keyleash.RateLimitedError),
    "token": (
        {"budget": {"writes": {"limit": "7/month", "per": "token"}}},
        keyleash.BudgetExhaustedError,
    ),
}


@pytest.mark.parametrize(("limits", "error"), LIMITS.values(), ids=LIMITS)
def test_limit_goes_on_where_it_was_after_a_crash(
    process: KillableServer, leash: Leash, limits: dict[str, Any], error: type[keyleash.LeashError]
) -> None:
    """Neither a crash nor a healed script gives a call back or takes one."""
    leash.load(one={**ALL, **limits})
    client = leash.agent("one")
    for written in range(7):
        if written in (3, 5):
            process.crash()
        assert client.set("t:a", written) is True

    with pytest.raises(error):
        client.set("t:a", "more")
    process.crash()
    with pytest.raises(error):
        client.set("t:a", "more")
    assert client.get("t:a") == b"6"
    assert len(leash.events("one")) == 7


def test_trail_is_whole_after_a_crash(process: KillableServer, leash: Leash) -> None:
    """Mutations, refusals and what operators did."""
    leash.load(one=ALL)
    client = leash.agent("one")
    for number in range(20):
        client.set(f"t:{number}", number)
    with pytest.raises(keyleash.KeyNotGrantedError):
        client.set("u:a", 1)
    before = leash.events("one"), leash.denials("one"), leash.admin.xrange(NAMES.control)
    process.crash()

    assert (leash.events("one"), leash.denials("one"), leash.admin.xrange(NAMES.control)) == before
    assert [event["SET"] for event in before[0]] == [f"t:{number}" for number in range(20)]


class Writer:
    """A thread's work: numbered keys and one counter, until the server is gone."""

    def __init__(self, client: keyleash.Redis, number: int) -> None:
        self.client = client
        self.counter = f"t:counter:{number}"
        self.number = number
        self.tried = 0
        self.acknowledged_keys: set[str] = set()
        self.acknowledged_counts = 0

    def work(self, acknowledged: threading.Semaphore) -> None:
        try:
            while True:
                self.tried += 1
                key = f"t:{self.number}:{self.tried}"
                self.client.set(key, self.tried)
                self.acknowledged_keys.add(key)
                self.client.incr(self.counter)
                self.acknowledged_counts += 1
                acknowledged.release()
        except (redis.ConnectionError, redis.TimeoutError):
            return


def test_nothing_acknowledged_is_lost_and_nothing_is_done_unseen(
    process: KillableServer, leash: Leash
) -> None:
    """The server crashes at random moments while four threads use one client."""
    leash.load(one={**ALL, "budget": {"writes": "1000000/month"}})
    client = leash.agent("one", retry=Retry(NoBackoff(), 0))
    writers = [Writer(client, number) for number in range(THREADS)]
    moments = random.Random(20260101)

    for crashes in range(1, ROUNDS + 1):
        acknowledged = threading.Semaphore(0)
        with ThreadPoolExecutor(THREADS) as pool:
            working = [pool.submit(writer.work, acknowledged) for writer in writers]
            for _ in range(moments.randint(1, 120)):
                assert acknowledged.acquire(timeout=PATIENCE_S)
            process.kill()
            for work in working:
                work.result(PATIENCE_S)
        retried(process.start, 100)
        assert_consistent(leash, writers, crashes)
    acknowledged_counts = sum(writer.acknowledged_counts for writer in writers)
    assert acknowledged_counts > ROUNDS
    print(f"{ROUNDS} kills, {2 * acknowledged_counts} acknowledged writes, each with its event")


def assert_consistent(leash: Leash, writers: list[Writer], crashes: int) -> None:
    events = leash.events("one")
    seen = Counter(command_of(event)[1] for event in events)
    stored = {key.decode() for key in leash.admin.scan_iter("t:*", count=1000)}

    # An event and its mutation are one: there is neither without the other.
    assert stored == set(seen)
    for writer in writers:
        assert writer.acknowledged_keys <= stored
        count = int(leash.admin.get(writer.counter) or 0)
        assert seen[writer.counter] == count
        # At most one call was under way at each crash.
        assert writer.acknowledged_counts <= count <= writer.acknowledged_counts + crashes
    assert all(seen[key] == 1 for key in stored if not key.startswith("t:counter:"))
    # What was counted is what ran.
    (budget,) = state_of(leash, "one").limits
    assert budget.used == len(events)


def test_crash_during_loads_leaves_one_whole_policy(process: KillableServer, leash: Leash) -> None:
    """Records, states, sources and document are of the same generation, and agents can act."""
    documents = [
        policy(one={**ALL, "budget": {"writes": f"{1000 + step}/month"}}, two=ALL)
        for step in range(2)
    ]
    leash.load(documents[0])
    client = leash.agent("one", retry=Retry(NoBackoff(), 0))
    moments = random.Random(20260102)

    def load(loads: threading.Semaphore) -> None:
        operator = Leash(RealServer("killable", process))
        try:
            for step in range(1, 10_000):
                operator.load(documents[step % 2])
                loads.release()
        except (redis.ConnectionError, redis.TimeoutError):
            return

    for written in range(1, 6):
        loads = threading.Semaphore(0)
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(load, loads)
            for _ in range(moments.randint(1, 6)):
                assert loads.acquire(timeout=PATIENCE_S)
            process.kill()
            loading.result(PATIENCE_S)
        retried(process.start, 100)

        active = read_active(leash.store)
        assert active is not None
        assert active.document in documents
        generations = {leash.admin.hget(NAMES.guard(name), "generation") for name in ("one", "two")}
        assert generations == {str(active.generation).encode()}
        assert client.incr("t:n") == written
        assert leash.load(active.document).changed is False
        (budget,) = state_of(leash, "one").limits
        assert budget.used == written == len(leash.events("one"))


def test_crashes_between_calls_with_ids_run_none_twice(
    process: KillableServer, leash: Leash
) -> None:
    """Change and record are both on the disk, or neither: each id counts once."""
    once = {"idempotency": {"keep": "1h"}, "budget": {"writes": "100000/day"}}
    leash.load(one={**ALL, **once})
    token = leash.issue("one").token
    done: list[int] = []
    is_over = threading.Event()

    def work(worker: int) -> None:
        agent = leash.client(token, retry=Retry(ConstantBackoff(0.05), 200))
        number = 0
        while not is_over.is_set():
            number += 1
            with keyleash.once(f"{worker}/{number}"):
                done.append(agent.incr("t:n"))

    with ThreadPoolExecutor(THREADS) as threads:
        working = [threads.submit(work, worker) for worker in range(THREADS)]
        for _ in range(ROUNDS // 2):
            time.sleep(random.uniform(0.05, 0.2))
            process.crash()
        is_over.set()
        for future in working:
            future.result(PATIENCE_S)

    assert sorted(done) == list(range(1, len(done) + 1))
    assert int(leash.admin.get("t:n")) == len(done)
    assert leash.used("one") == {"budget.writes": len(done)}
    assert len(leash.events("one")) == len(done)
