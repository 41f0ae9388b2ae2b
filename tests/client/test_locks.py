"""redis-py's `Lock` over guarded connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.lock
from redis.exceptions import LockError, LockNotOwnedError

import keyleash
from client.alike import Awaited, awaiting
from keyleash.commands.locks import EXTEND, REACQUIRE, RELEASE
from keyleash.store.keyspace import script_digest
from support.leash import NAMES, Leash, grant
from support.servers import RealServer

GRANT = grant("read", "write", "delete", keys="app:*")
APPROVED = {**GRANT, "scripts": ["redis-py-lock"]}


class LockLeash(Leash):
    """Agents with redis-py's own clients."""

    def client_of(self, identity: str, runner: asyncio.Runner | None = None) -> Any:
        url = f"redis://localhost:{self.server.port}"
        options: Any = {"token": self.issue(identity).token}
        if runner is None:
            return redis.Redis(connection_pool=keyleash.pool(url, **options))
        client = redis.asyncio.Redis(connection_pool=keyleash.asyncio.pool(url, **options))
        return Awaited(client, runner)

    def entries(self, identity: str) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in self.admin.xrange(NAMES.audit(identity))]


KINDS = {"commands": GRANT, "script": APPROVED}


@pytest.fixture(params=KINDS)
def leash(request: pytest.FixtureRequest, embedded: RealServer) -> LockLeash:
    leash = LockLeash(embedded)
    leash.load(one={"grants": [KINDS[request.param]]})
    return leash


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, leash: LockLeash) -> Iterator[Any]:
    if request.param == "sync":
        yield leash.client_of("one")
        return
    with awaiting() as runner:
        yield leash.client_of("one", runner)


def lock_of(client: Any, name: str, **options: Any) -> Any:
    lock = client.lock(name, **options)
    return Awaited(lock, client._runner) if isinstance(client, Awaited) else lock


def test_digests_of_the_lock_are_those_of_the_installed_redis_py() -> None:
    """With another text of redis-py's, its lock would be denied."""
    for lock in (redis.lock.Lock, redis.asyncio.lock.Lock):
        texts = (lock.LUA_RELEASE_SCRIPT, lock.LUA_EXTEND_SCRIPT, lock.LUA_REACQUIRE_SCRIPT)
        digests = [script_digest(text) for text in texts]
        assert digests == [RELEASE, EXTEND, REACQUIRE]


def test_lock_of_redis_py_works_over_a_guarded_pool(leash: LockLeash, client: Any) -> None:
    """Acquire, owned, extend, reacquire and release, as on a raw connection."""
    lock = lock_of(client, "app:lock", timeout=10)

    assert lock.acquire() is True
    assert lock.owned() is True
    assert lock.extend(20) is True
    assert 29_000 < client.pttl("app:lock") <= 30_000
    assert lock.extend(5, replace_ttl=True) is True
    assert 4_000 < client.pttl("app:lock") <= 5_000
    assert lock.reacquire() is True
    assert 9_000 < client.pttl("app:lock") <= 10_000
    assert lock.release() is None
    assert client.exists("app:lock") == 0


def test_lock_that_another_holds_is_neither_released_nor_extended(client: Any) -> None:
    """The token decides, and a key without expiry is not extended."""
    lock = lock_of(client, "app:lock", timeout=10)
    lock.acquire()
    client.set("app:lock", "another's")

    with pytest.raises(LockNotOwnedError):
        lock.extend(1)
    with pytest.raises(LockNotOwnedError):
        lock.reacquire()
    with pytest.raises(LockNotOwnedError):
        lock.release()
    assert client.get("app:lock") == b"another's"
    client.delete("app:lock")
    with pytest.raises(LockError):
        lock.release()


def test_lock_without_a_timeout_leaves_no_key_behind(leash: LockLeash, client: Any) -> None:
    """A release that is denied would leave it locked for ever."""
    lock = lock_of(client, "app:lock")
    lock.acquire()
    lock.release()

    assert client.exists("app:lock") == 0
    assert any(b"DEL" in event for event in leash.entries("one"))


def test_lock_of_a_key_that_is_not_granted_is_denied_before_it_is_taken(client: Any) -> None:
    with pytest.raises(keyleash.KeyNotGrantedError):
        lock_of(client, "other:lock").acquire()


def test_eight_contenders_never_hold_a_lock_together(leash: LockLeash) -> None:
    """Each adds to a counter in two steps, which only the lock makes one."""
    client = leash.client_of("one")
    holders, most = [0], [0]
    guard = threading.Lock()

    def contend(_: int) -> None:
        for _ in range(12):
            with client.lock("app:lock", timeout=60, sleep=0.001):
                with guard:
                    holders[0] += 1
                    most[0] = max(most[0], holders[0])
                value = int(client.get("app:count") or 0)
                client.set("app:count", value + 1)
                with guard:
                    holders[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(contend, range(8)))
    assert most == [1]
    assert client.get("app:count") == b"96"
    assert client.exists("app:lock") == 0


def test_release_without_the_class_delete_is_denied(embedded: RealServer) -> None:
    """The commands of the lock need the classes that they would need alone."""
    leash = LockLeash(embedded)
    allowed = grant("read", "write", keys="app:*")
    scripted = {**allowed, "scripts": ["redis-py-lock"]}
    leash.load(one={"grants": [allowed]}, two={"grants": [scripted]})
    for identity in ("one", "two"):
        client = leash.client_of(identity)
        lock = client.lock("app:lock", timeout=5)
        lock.acquire()
        with pytest.raises(keyleash.ClassNotGrantedError):
            lock.release()
        assert client.pttl("app:lock") > 0
        leash.admin.delete("app:lock")


@pytest.mark.parametrize(
    "scripts", [{}, {"scripts": ["redis-py-lock"]}], ids=["commands", "script"]
)
def test_lock_without_a_timeout_whose_release_is_denied_gets_an_expiry(
    embedded: RealServer, scripts: dict[str, list[str]]
) -> None:
    """It would stay locked for ever; one that is another's by then stays as it is."""
    leash = LockLeash(embedded)
    leash.load(one={"grants": [{**grant("read", "write", keys="app:*"), **scripts}]})
    client = leash.client_of("one")
    lock = client.lock("app:lock")
    lock.acquire()
    assert client.pttl("app:lock") == -1
    with pytest.raises(keyleash.ClassNotGrantedError):
        lock.release()
    assert 0 < client.pttl("app:lock") <= 10_000
    assert client.get("app:lock") is not None


@pytest.mark.parametrize(
    "scripts", [{}, {"scripts": ["redis-py-lock"]}], ids=["commands", "script"]
)
def test_lock_without_a_timeout_whose_release_is_over_a_limit_gets_an_expiry(
    embedded: RealServer, scripts: dict[str, list[str]]
) -> None:
    """The limit of deletes leaves the write that sets the expiry."""
    leash = LockLeash(embedded)
    leash.load(one={"grants": [{**GRANT, **scripts}], "budget": {"deletes": "1/day"}})
    client = leash.client_of("one")
    client.delete("app:x")
    lock = client.lock("app:lock")
    lock.acquire()
    with pytest.raises(keyleash.BudgetExhaustedError):
        lock.release()
    assert 0 < client.pttl("app:lock") <= 10_000


def test_lock_within_a_watch_is_denied(embedded: RealServer) -> None:
    """Its own WATCH would end the caller's."""
    leash = LockLeash(embedded)
    leash.load(one={"grants": [GRANT]})
    client = leash.client_of("one")
    client.set("app:lock", "mine")
    with client.pipeline() as pipe:
        pipe.watch("app:x")
        with pytest.raises(keyleash.CommandRefusedError):
            pipe.execute_command("EVALSHA", RELEASE, 1, "app:lock", "mine")
    assert client.get("app:lock") == b"mine"


def test_release_is_repeated_if_another_changed_the_key_meanwhile(embedded: RealServer) -> None:
    """EXEC then says that nothing ran, and the lock is looked at again."""
    leash = LockLeash(embedded)
    leash.load(one={"grants": [GRANT]})
    client = leash.client_of("one")
    stop = threading.Event()
    lock = client.lock("app:lock", timeout=60)
    lock.acquire()
    token = lock.local.token

    def touch() -> None:
        while not stop.is_set():
            # The same value, which WATCH takes for a change.
            leash.admin.set("app:lock", token, xx=True)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        lock.release()
    finally:
        stop.set()
        thread.join()
    assert client.exists("app:lock") == 0


@pytest.mark.parametrize("transaction", [False, True])
def test_lock_in_a_pipeline_is_released_in_order(
    leash: LockLeash, client: Any, transaction: bool
) -> None:
    """A script of a lock may stand between other commands, or alone in a transaction."""
    lock = lock_of(client, "app:lock", timeout=10)
    lock.acquire()
    pipe = client.pipeline(transaction=transaction)
    if not transaction:
        pipe.set("app:a", 1)
    pipe.evalsha(RELEASE, 1, "app:lock", lock.local.token)
    if not transaction:
        pipe.exists("app:lock").evalsha(RELEASE, 1, "app:lock", lock.local.token).get("app:a")

    assert pipe.execute() == ([1] if transaction else [True, 1, 0, 0, b"1"])
    assert client.exists("app:lock") == 0


def test_lock_beside_other_commands_of_a_transaction_needs_its_script(
    client: Any, request: pytest.FixtureRequest
) -> None:
    """Otherwise nothing runs, and the connection serves the next call."""
    pipe = client.pipeline()
    pipe.set("app:a", 1).evalsha(RELEASE, 1, "app:lock", "mine")

    if "script" in request.node.callspec.id:
        assert pipe.execute() == [True, 0]
        return
    with pytest.raises(keyleash.CommandRefusedError, match="no grant approves"):
        pipe.execute()
    assert client.get("app:a") is None


def test_denied_release_in_a_pipeline_is_the_reply_of_its_command_alone(
    embedded: RealServer,
) -> None:
    """The others run."""
    leash = LockLeash(embedded)
    leash.load(one={"grants": [grant("read", "write", keys="app:*")]})
    client = leash.client_of("one")
    lock = client.lock("app:lock", timeout=5)
    lock.acquire()
    pipe = client.pipeline(transaction=False)
    pipe.evalsha(RELEASE, 1, "app:lock", lock.local.token).set("app:a", 1)

    denied, is_set = pipe.execute(raise_on_error=False)

    assert isinstance(denied, keyleash.ClassNotGrantedError)
    assert is_set is True
