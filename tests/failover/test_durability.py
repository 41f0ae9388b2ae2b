"""`durability`: a write succeeds once replicas have it; otherwise the caller gets an error."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

import keyleash
from client.alike import AsyncLeash, SyncLeash
from client.test_errors import assert_unseen
from keyleash import NotReplicatedError
from keyleash.store.records import guard_record
from keyleash.types import DelegatedToken, Renewal
from support.leash import NAMES, Leash, grant
from support.replication import Address, Node, wait_until

ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="t:*")]}
PATIENT = {"wait_replicas": 1, "timeout": "30s"}
HASTY = {"wait_replicas": 1, "timeout": "5ms"}

Pair = tuple[Node, Node]


@pytest.fixture(params=["sync", "async"])
def leash(pair: Pair, request: pytest.FixtureRequest) -> Any:
    """A leash on the primary."""
    if request.param == "sync":
        yield Leash(pair[0])
        return
    if not request.node.callspec.params["pair"].startswith("embedded"):
        pytest.skip("what the async client does differently is not the server's")
    leash = AsyncLeash(pair[0])
    yield leash
    leash.close()


def test_client_reads_the_number_of_replicas_from_the_guard_record(pair: Pair) -> None:
    """It also follows changes of the record."""
    leash = Leash(pair[0])
    leash.load(one={**ALL, "durability": PATIENT}, two=ALL)

    def waits(identity: str) -> tuple[int, int]:
        record = guard_record(leash.admin.hgetall(NAMES.guard(identity)))
        assert record is not None
        return record.wait_replicas, record.wait_ms

    assert waits("one") == (1, 30_000)
    assert waits("two") == (0, 50)
    client = leash.agent("one")
    client.set("t:a", 1)
    leash.load(one={**ALL, "durability": {"wait_replicas": 0}}, two=ALL)
    pair[1].halt()
    assert client.set("t:a", 2) is True


def test_replicated_write_returns_its_reply(leash: Any, pair: Pair) -> None:
    """Replicas have its event and counter as well."""
    leash.load(one={**ALL, "durability": PATIENT, "budget": {"writes": "100/month"}})
    client = leash.agent("one")

    for number in range(20):
        assert client.incr("t:n") == number + 1
        assert pair[1].admin.get("t:n") == str(number + 1).encode()
        assert pair[1].admin.xlen(NAMES.audit("one")) == number + 1
        assert pair[1].admin.get(NAMES.state("one")) == leash.state("one")


def test_unreplicated_write_raises_an_error_with_its_reply(leash: Any, pair: Pair) -> None:
    """The write took effect, so the caller must not repeat it."""
    leash.load(one={**ALL, "durability": HASTY})
    client = leash.agent("one")
    pair[1].halt()

    with pytest.raises(NotReplicatedError) as caught:
        client.incr("t:n", 5)
    error = caught.value
    assert (error.reply, error.replicas, error.wanted, error.timeout_ms) == (5, 0, 1, 5)
    assert not isinstance(error, redis.RedisError)
    assert error.message == "the call was done, but 0 of 1 replicas had it within 5 ms"
    assert leash.admin.get("t:n") == b"5"
    assert len(leash.events("one")) == 1
    assert client.get("t:n") == b"5"


def test_read_does_not_wait_for_replicas(leash: Any, pair: Pair) -> None:
    """Not even if a limit counts it."""
    leash.load(one={**ALL, "durability": HASTY, "budget": {"reads": "100/month"}})
    client = leash.agent("one")
    pair[1].halt()

    for _ in range(3):
        assert client.get("t:a") is None
    assert client.object("refcount", "t:a") is None
    with client.pipeline() as pipe:
        assert pipe.get("t:a").mget("t:a", "t:b").execute() == [None, [None, None]]


def test_denial_and_error_do_not_wait_for_replicas(leash: Any, pair: Pair) -> None:
    """Nothing was written, and the next call gets its own reply."""
    leash.load(one={**ALL, "durability": HASTY})
    client = leash.agent("one")
    pair[1].halt()

    with pytest.raises(keyleash.KeyNotGrantedError):
        client.set("u:a", 1)
    with pytest.raises(NotReplicatedError):
        client.set("t:a", 1)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.lpush("t:a", 1)
    assert client.get("t:a") == b"1"


def test_retry_of_a_lost_script_waits_for_replicas(leash: Any, pair: Pair) -> None:
    """WAIT follows the retried call, too."""
    leash.load(one={**ALL, "durability": PATIENT})
    client = leash.agent("one")
    client.set("t:a", 1)
    leash.admin.script_flush()
    assert client.set("t:a", 2) is True
    leash.load(one={**ALL, "durability": HASTY})
    pair[1].halt()
    with pytest.raises(NotReplicatedError):
        client.set("t:a", 3)
    assert client.get("t:a") == b"3"
    assert len(leash.events("one")) == 3


def test_blocking_command_waits_for_replicas_after_a_write(leash: Any, pair: Pair) -> None:
    """A poll without a result does not."""
    leash.load(one={**ALL, "durability": HASTY})
    client = leash.agent("one")
    pair[1].halt()
    leash.admin.rpush("t:list", "x")

    assert client.blpop("t:none", timeout=0.01) is None
    with pytest.raises(NotReplicatedError) as caught:
        client.blpop("t:list", timeout=1)
    assert tuple(caught.value.reply) == (b"t:list", b"x")


@pytest.mark.parametrize("transaction", [True, False], ids=["all", "each"])
def test_unreplicated_pipeline_returns_all_replies(
    leash: Any, pair: Pair, transaction: bool
) -> None:
    """Also if it was several calls, or one of its commands failed."""
    leash.load(one={**ALL, "durability": HASTY})
    client = leash.agent("one")
    pair[1].halt()
    count = 300 if not transaction else 10

    pipe = client.pipeline(transaction)
    for number in range(count):
        pipe.set(f"t:{number}", number)
    pipe.lpush("t:0", "x").get("t:1")
    with pytest.raises(NotReplicatedError) as caught:
        pipe.execute()
    *done, failed, read = caught.value.reply
    assert done == [True] * count
    assert isinstance(failed, redis.ResponseError)
    assert read == b"1"
    assert len(pipe) == 0


def test_pipeline_without_writes_does_not_wait(leash: Any, pair: Pair) -> None:
    """Denials, errors and reads leave nothing to replicate."""
    leash.load(one={**ALL, "durability": HASTY})
    client = leash.agent("one")
    leash.admin.set("t:a", 1)
    pair[1].halt()

    pipe = client.pipeline(transaction=False)
    pipe.set("u:a", 1).lpush("t:a", 1).get("t:a")
    refused, failed, read = pipe.execute(raise_on_error=False)
    assert isinstance(refused, keyleash.KeyNotGrantedError)
    assert isinstance(failed, redis.ResponseError)
    assert read == b"1"


def test_unreplicated_batch_returns_its_replies(leash: Any, pair: Pair) -> None:
    """`results` has them after the block as well."""
    leash.load(one={**ALL, "durability": HASTY})
    client = leash.agent("one")
    pair[1].halt()

    batch = client.batch()
    batch.set("t:a", 1)
    batch.get("t:a")
    with pytest.raises(NotReplicatedError):
        batch.execute()
    assert batch.results == [True, b"1"]


def test_single_connection_waits_as_well(leash: Any, pair: Pair) -> None:
    """WAIT applies to its own connection, and there is only this one."""
    leash.load(one={**ALL, "durability": HASTY})
    client = leash.agent("one", single_connection_client=True)
    pair[1].halt()
    for number in range(2):
        with pytest.raises(NotReplicatedError):
            client.set("t:a", number)
        assert client.get("t:a") == str(number).encode()


def test_wait_without_permission_reports_the_write_as_done(leash: Any, pair: Pair) -> None:
    """The error says that replication is unknown."""
    leash.load(one={**ALL, "durability": PATIENT})
    leash.admin.execute_command("ACL", "SETUSER", "agent", "on", ">pw", "~*", "+@all", "-wait")
    client = leash.agent("one", username="agent", password="pw")

    with pytest.raises(NotReplicatedError) as caught:
        client.set("t:a", 1)
    assert caught.value.replicas is None
    assert isinstance(caught.value.__cause__, redis.exceptions.NoPermissionError)
    assert "not known" in str(caught.value)
    assert client.get("t:a") == b"1"


def test_denial_is_raised_without_the_permission_to_wait(leash: Any, pair: Pair) -> None:
    """And the server's own error of a command."""
    leash.load(one={**ALL, "durability": HASTY})
    leash.admin.execute_command("ACL", "SETUSER", "agent", "on", ">pw", "~*", "+@all", "-wait")
    leash.admin.set("t:a", 1)
    client = leash.agent("one", username="agent", password="pw")

    with pytest.raises(keyleash.KeyNotGrantedError):
        client.set("u:a", 1)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.lpush("t:a", 1)
    pipe = client.pipeline(transaction=False).set("u:a", 1).lpush("t:a", 1)
    refused, failed = pipe.execute(raise_on_error=False)
    assert isinstance(refused, keyleash.KeyNotGrantedError)
    assert "WRONGTYPE" in str(failed)
    assert client.get("t:a") == b"1"


def test_denial_is_raised_if_the_primary_dies_during_wait(mortals: Pair) -> None:
    """It was read, so it is known that nothing ran."""
    leash = Leash(mortals[0])
    leash.load(one={**ALL, "durability": PATIENT})
    client = leash.agent("one")
    client.ping()
    mortals[1].halt()
    kill_when(mortals[0], lambda info: info["blocked_clients"] == 1)

    with pytest.raises(keyleash.KeyNotGrantedError):
        client.set("u:a", 1)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_demoted_primary_is_reported_as_read_only(mortals: Pair, kind: str) -> None:
    """Nothing ran, so the retry policy may repeat the call at the new primary."""
    primary, replica = mortals
    leash: Any = SyncLeash(primary) if kind == "sync" else AsyncLeash(primary)
    leash.load(one={**ALL, "durability": PATIENT})
    retry: Any = Retry(NoBackoff(), 1) if kind == "sync" else AsyncRetry(NoBackoff(), 1)
    with contextlib.closing(Address(primary)) as address:
        retrying = leash.agent(
            "one", port=address.port, retry=retry, retry_on_error=[redis.ReadOnlyError]
        )
        client = leash.agent("one", port=address.port)
        retrying.set("t:a", 1)
        client.set("t:a", 1)
        replica.promote()
        primary.follow(replica)
        address.node = replica

        with pytest.raises(redis.ReadOnlyError):
            client.set("t:a", 2)
        assert retrying.incr("t:a") == 2
        assert len(Leash(replica).events("one")) == 3
        if kind == "async":
            leash.close()


def test_delegation_and_renewal_without_a_replica_return_what_was_made(
    leash: Any, pair: Pair
) -> None:
    """The child's secret is in the reply of the error alone."""
    token = {"bound": True, "renew": True, "ttl": "1h", "max_ttl": "4h"}
    leash.load(one={**ALL, "token": token, "delegate": {"depth": 1}, "durability": HASTY})
    client = leash.agent("one")
    pair[1].halt()

    with pytest.raises(NotReplicatedError) as of_child:
        client.delegate(ttl="10m")
    with pytest.raises(NotReplicatedError) as of_renewal:
        client.renew("2h")

    child = of_child.value.reply
    assert isinstance(child, DelegatedToken)
    assert isinstance(of_renewal.value.reply, Renewal)
    assert_unseen(child.token, of_child.value)
    assert child.token not in f"{of_child.value} {of_child.value!r} {of_child.value.args}"
    assert leash.client(child.token).whoami().token_id == child.id
    assert client.whoami().expires_at == of_renewal.value.reply.expires_at


def test_primary_that_dies_during_wait_has_run_the_call(mortals: Pair) -> None:
    """The reply was read, so the call is not repeated."""
    leash = Leash(mortals[0])
    leash.load(one={**ALL, "durability": PATIENT})
    client = leash.agent("one")
    client.ping()
    mortals[1].halt()
    kill_when(mortals[0], lambda info: info["blocked_clients"] == 1)

    with pytest.raises(NotReplicatedError) as caught:
        client.set("t:a", 1)
    assert caught.value.replicas is None
    assert caught.value.reply is True


def test_tasks_get_replies_read_before_the_connection_ended(mortals: Pair) -> None:
    """None of them repeats its call."""
    leash = Leash(mortals[0])
    leash.load(one={**ALL, "durability": PATIENT})
    token = leash.issue("one").token
    mortals[1].halt()
    kill_when(mortals[0], lambda info: info["blocked_clients"] == 1)

    async def run() -> list[Any]:
        port = mortals[0].port
        async with keyleash.asyncio.Redis(port=port, token=token, coalesce=True) as client:
            calls: list[Any] = [client.incr("t:n"), client.incr("t:n"), client.get("t:n")]
            return await asyncio.gather(*calls, return_exceptions=True)

    *written, read = asyncio.run(run())
    assert [(type(item), item.replicas) for item in written] == [(NotReplicatedError, None)] * 2
    assert sorted(item.reply for item in written) == [1, 2]
    assert read in (None, b"1", b"2")


def kill_when(node: Node, is_so: Callable[[dict[str, Any]], bool]) -> None:
    import threading

    def watch() -> None:
        admin = redis.Redis(port=node.port)
        wait_until(lambda: is_so(admin.info("clients")))
        node.kill()

    threading.Thread(target=watch, daemon=True).start()


def test_coalesced_tasks_get_their_own_results(pair: Pair) -> None:
    """Unreplicated writes raise an error with their reply; reads do not."""
    leash = Leash(pair[0])
    leash.load(one={**ALL, "durability": HASTY})
    token = leash.issue("one").token
    pair[1].halt()

    async def run() -> list[Any]:
        async with keyleash.asyncio.Redis(port=pair[0].port, token=token, coalesce=True) as client:
            calls: list[Any] = [client.incr("t:n") for _ in range(5)]
            calls += [client.get("t:a"), client.set("u:a", 1), client.lpush("t:n", 1)]
            return await asyncio.gather(*calls, return_exceptions=True)

    *counted, read, refused, failed = asyncio.run(run())
    assert all(isinstance(item, NotReplicatedError) for item in counted)
    assert sorted(item.reply for item in counted) == [1, 2, 3, 4, 5]
    assert read is None
    assert isinstance(refused, keyleash.KeyNotGrantedError)
    assert type(failed) is redis.ResponseError


def test_error_can_be_copied_and_pickled() -> None:
    """Tasks and processes pass exceptions on."""
    error = NotReplicatedError([1], 0, 2, 50)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301
        assert str(other) == str(error)
        assert (other.reply, other.replicas, other.wanted) == ([1], 0, 2)


def test_min_replicas_to_write_denies_the_whole_call(mortals: Pair) -> None:
    """The error is the server's; no key, event or counter was written."""
    primary, replica = mortals
    leash = Leash(primary)
    leash.load(one={**ALL, "budget": {"writes": "100/month"}}, two=ALL)
    first, second = leash.agent("one"), leash.agent("two")
    first.set("t:a", 1)
    second.get("t:a")
    replica.kill()
    wait_until(lambda: primary.admin.info("replication")["connected_slaves"] == 0)
    leash.admin.config_set("min-replicas-to-write", 1)
    before = everything(leash)

    pipe: Any = second.pipeline()
    for refused in (
        lambda: first.set("t:a", 2),
        lambda: second.set("t:a", 2),
        pipe.set("t:a", 2).set("t:b", 2).execute,
    ):
        with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
            refused()
    assert second.get("t:a") == b"1"
    assert everything(leash) == before


def everything(leash: Leash) -> dict[bytes, bytes]:
    return {key: leash.admin.dump(key) for key in leash.admin.scan_iter()}
