"""Calls with idempotency ids whose reply is lost, and what changes before they are sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

import keyleash
from client.alike import ONE_EITHER, AsyncLeash
from client.test_once import ALL
from client.test_token_sources import Tokens
from client.twin import BROAD
from keyleash import ReplyCode
from keyleash.client import caller
from keyleash.errors import DENIALS
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.revoke import revoke
from support.leash import Leash, grant
from support.proxies import Proxy

RENEWED: dict[str, Any] = {**ALL, "token": {"ttl": "10m", "max_ttl": "1h", "renew": True}}
RECOVERED = [ReplyCode.LEASE_NEEDED, ReplyCode.POLICY_STALE]
"""Codes after which a call is made again."""
AFTER_IDS = [
    ReplyCode.ARGS_TOO_MANY,
    ReplyCode.AUDIT_FULL,
    ReplyCode.BUDGET_EXHAUSTED,
    ReplyCode.CHANNEL_NOT_GRANTED,
    ReplyCode.CLASS_NOT_GRANTED,
    ReplyCode.COMMAND_REFUSED,
    ReplyCode.COUNTER_CORRUPT,
    ReplyCode.DELEGATION_REFUSED,
    ReplyCode.IDEMPOTENCY_CONFLICT,
    ReplyCode.INDEX_NOT_GRANTED,
    ReplyCode.KEYS_MISMATCH,
    ReplyCode.KEY_DENIED,
    ReplyCode.KEY_NOT_GRANTED,
    ReplyCode.KEY_TOO_LONG,
    ReplyCode.RATE_LIMITED,
    ReplyCode.RENEWAL_REFUSED,
    ReplyCode.REPLAYED,
    ReplyCode.VALUE_REFUSED,
    ReplyCode.VALUE_TOO_LARGE,
    ReplyCode.WORK_TOO_LARGE,
]
"""Codes of denials after the guard has looked up the id, or of calls that take none."""


class LosingProxy(Proxy):
    """Loses one reply to a call of a guard, and then does what changes meanwhile.

    Attributes:
        fate: What becomes of that call.
        then: What changes; None if no reply is to be lost.
    """

    fate = "drop the reply"
    then: Callable[[], Any] | None = None

    def _fate(self, names: list[bytes]) -> str:
        return self.fate if self.then is not None and b"EVALSHA" in names else "forward"

    async def _exchange(self, *streams: Any) -> bool:
        stays_open = await super()._exchange(*streams)
        if not stays_open and self.then is not None:
            then, self.then = self.then, None
            await asyncio.to_thread(then)
        return stays_open


@pytest.fixture
def proxy(one_leash: Leash) -> Iterator[LosingProxy]:
    one_leash.load(one=ALL)
    proxy = LosingProxy(one_leash.server.port, 1)
    yield proxy
    proxy.stop()


def agent(leash: Leash, proxy: Proxy, token: Any) -> Any:
    """A client that is connected and retries."""
    kind: Any = AsyncRetry if isinstance(leash, AsyncLeash) else Retry
    client: Any = leash.client(token, port=proxy.port, retry=kind(NoBackoff(), 3))
    client.get("t:n")
    return client


def alone(client: Any) -> Any:
    with keyleash.once("a"):
        return client.incr("t:n")


def batched(client: Any) -> Any:
    batch = client.batch(once="a")
    batch.incr("t:n")
    batch.set("t:k", "v")
    return batch.execute()


def piped(client: Any) -> Any:
    pipe = client.pipeline(transaction=False, once="a")
    for _ in range(2):
        pipe.set("t:k", "v")
    pipe.incr("t:n")
    return pipe.execute(raise_on_error=False)


CALLS = pytest.mark.parametrize("call", [alone, batched, piped])


@ONE_EITHER
@CALLS
def test_call_does_not_run_again_under_the_next_token(
    one_leash: Leash, proxy: LosingProxy, call: Callable[[Any], Any]
) -> None:
    """Its id would be a new one; the denial of the token is the cause of the error."""
    first = one_leash.issue("one")
    source = Tokens(first.token, one_leash.issue("one").token)
    client = agent(one_leash, proxy, source)
    proxy.then = lambda: revoke(one_leash.store, token_id=first.id)

    with pytest.raises(RedisConnectionError) as error:
        call(client)
    assert isinstance(error.value.__cause__, keyleash.TokenRevokedError)
    assert one_leash.admin.get("t:n") == b"1"
    assert source.asked == 1
    assert client.incr("t:n") == 2
    assert source.asked == 2


@ONE_EITHER
@CALLS
def test_call_does_not_run_again_under_a_token_that_another_connection_fetched(
    one_leash: Leash, proxy: LosingProxy, call: Callable[[Any], Any]
) -> None:
    """Connections share the token; the call then has no denial as its cause."""
    source = Tokens(one_leash.issue("one").token)
    client = agent(one_leash, proxy, source)
    session = client.connection_pool.connection_class.session
    following = one_leash.issue("one").token
    proxy.then = lambda: session.accept_token(following)

    with pytest.raises(RedisConnectionError):
        call(client)
    assert one_leash.admin.get("t:n") == b"1"
    assert client.incr("t:n") == 2


def test_pool_of_redis_py_does_not_run_a_call_under_the_next_token(
    one_leash: Leash, proxy: LosingProxy
) -> None:
    """Only the pool is keyleash's."""
    first = one_leash.issue("one")
    source = Tokens(first.token, one_leash.issue("one").token)
    url, retry = f"redis://127.0.0.1:{proxy.port}", Retry(NoBackoff(), 3)
    pool = keyleash.pool(url, source, retry=retry)
    client = redis.Redis(connection_pool=pool)
    proxy.then = lambda: revoke(one_leash.store, token_id=first.id)

    with pytest.raises(RedisConnectionError):
        alone(client)
    assert one_leash.admin.get("t:n") == b"1"
    pool.disconnect()


def test_batches_of_a_pipeline_do_not_run_again_under_the_token_of_the_last(
    one_leash: Leash, proxy: LosingProxy
) -> None:
    """The token ends between two batches, and the reply to the second is lost."""
    first = one_leash.issue("one")
    source = Tokens(first.token, one_leash.issue("one").token)
    client = agent(one_leash, proxy, source)
    pipe = client.pipeline(transaction=False, once="p")
    for _ in range(256):
        pipe.incr("t:n")
    seen = []

    def fate(names: list[bytes]) -> str:
        if b"EVALSHA" not in names:
            return "forward"
        seen.append(names)
        if len(seen) == 2:
            revoke(one_leash.store, token_id=first.id)
        if len(seen) == 3:
            proxy.then = lambda: None
            return "drop the reply"
        return "forward"

    proxy._fate = fate  # type: ignore[method-assign]
    with pytest.raises(RedisConnectionError):
        pipe.execute()
    assert one_leash.admin.get("t:n") == b"256"
    assert len(seen) == 3


UNDECIDED: dict[str, tuple[Callable[[Leash, str], Any], type[Exception]]] = {
    "frozen": (lambda leash, _: freeze(leash.store, "one", reason="r"), keyleash.SuspendedError),
    "revoked": (lambda leash, id: revoke(leash.store, token_id=id), keyleash.TokenRevokedError),
    "without ids": (lambda leash, _: leash.load(one=BROAD), keyleash.CommandRefusedError),
    "removed": (lambda leash, _: leash.load(two=ALL), keyleash.LeashError),
    "flushed": (lambda leash, _: leash.admin.flushall(), keyleash.LeashError),
}


@ONE_EITHER
@CALLS
@pytest.mark.parametrize("change", UNDECIDED)
def test_denial_before_the_id_is_looked_up_is_a_lost_connection(
    one_leash: Leash, proxy: LosingProxy, call: Callable[[Any], Any], change: str
) -> None:
    """The call may have run, so a denial, after which nothing has run, would be wrong."""
    make, kind = UNDECIDED[change]
    issued = one_leash.issue("one")
    client = agent(one_leash, proxy, issued.token)
    proxy.then = lambda: make(one_leash, issued.id)

    with pytest.raises(RedisConnectionError) as error:
        call(client)
    assert isinstance(error.value.__cause__, kind)


def test_each_denial_comes_either_before_or_after_the_id_is_looked_up() -> None:
    """After a lost attempt, a code that is in neither list would be taken as the outcome."""
    before = [kind.code for kind in DENIALS.values() if issubclass(kind, caller._BEFORE_IDS)]
    assert sorted([*before, *RECOVERED, *AFTER_IDS]) == sorted(ReplyCode)


@ONE_EITHER
def test_denial_after_the_id_was_looked_up_stays_a_denial(
    one_leash: Leash, proxy: LosingProxy
) -> None:
    """The first attempt did not run."""
    client = agent(one_leash, proxy, one_leash.issue("one").token)
    proxy.fate = "lose"
    proxy.then = lambda: one_leash.load(one={**ALL, "grants": [grant("read", "write", keys="x:*")]})

    with pytest.raises(keyleash.KeyNotGrantedError):
        alone(client)


@ONE_EITHER
@CALLS
def test_stale_policy_and_lost_scripts_are_recovered_from(
    one_leash: Leash, proxy: LosingProxy, call: Callable[[Any], Any]
) -> None:
    """With the same token the id is the same."""
    client = agent(one_leash, proxy, one_leash.issue("one").token)

    def change() -> None:
        one_leash.load(one={**ALL, "budget": {"writes": "99999/day"}})
        one_leash.admin.script_flush()

    proxy.then = change
    call(client)
    assert one_leash.admin.get("t:n") == b"1"


@ONE_EITHER
@CALLS
def test_call_that_looks_after_its_token_is_sent_again(
    one_leash: Leash, proxy: LosingProxy, call: Callable[[Any], Any]
) -> None:
    """The question about the token has no id, and is no part of the call."""
    one_leash.load(one=RENEWED)
    client = agent(one_leash, proxy, Tokens(one_leash.issue("one").token))
    session = client.connection_pool.connection_class.session
    looked = []

    def fate(names: list[bytes]) -> str:
        if b"EVALSHA" not in names:
            return "forward"
        looked.append(names)
        if len(looked) == 2:
            proxy.then = lambda: None
            return "drop the reply"
        return "forward"

    session.schedule.reset()
    proxy._fate = fate  # type: ignore[method-assign]
    call(client)
    assert one_leash.admin.get("t:n") == b"1"
    assert len(looked) > 2


@ONE_EITHER
@pytest.mark.parametrize("transaction", [True, False])
def test_batch_is_the_same_call_to_a_guard_that_takes_no_runs(
    one_leash: Leash, proxy: LosingProxy, transaction: bool
) -> None:
    """The guard compares words, so those of a batch with an id never depend on the policy."""
    client = agent(one_leash, proxy, one_leash.issue("one").token)

    def run() -> Any:
        pipe = client.pipeline(transaction=transaction, once="a")
        for value in range(3):
            pipe.rpush("t:l", value)
        return pipe.execute()

    assert run() == [1, 2, 3]
    one_leash.load(one={**ALL, "audit": {"values": "length"}})
    assert run() == [1, 2, 3]
    one_leash.load(one=ALL)
    assert run() == [1, 2, 3]
