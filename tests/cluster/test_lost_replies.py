"""Calls with idempotency ids on clusters whose reply is lost, and what changes meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

import keyleash
from client.test_lost_replies import LosingProxy
from client.test_token_sources import Tokens
from cluster.conftest import Agents, lent
from cluster.test_once import ONCE
from support.clusters import RealCluster


class Meanwhile:
    """Proxies of all nodes, of which the next to get a call loses its reply."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        ports = [node.port for node in agents.cluster.primaries]
        self._proxies = {port: LosingProxy(port, 1) for port in ports}

    def connect(self) -> Any:
        """Return a client that is connected to all nodes and has leases."""
        client = self._agents.connect(address_remap=self._remap)
        for number in range(20):
            client.set(f"t:warm{number}", "v")
        return client

    def _remap(self, address: tuple[str, int]) -> tuple[str, int]:
        proxy = self._proxies.get(address[1])
        return (address[0], proxy.port) if proxy else address

    def do(self, change: Callable[[], Any]) -> None:
        """Do something when a reply is lost."""

        def once() -> None:
            for proxy in self._proxies.values():
                proxy.then = None
            change()

        for proxy in self._proxies.values():
            proxy.then = once

    def stop(self) -> None:
        for proxy in self._proxies.values():
            proxy.stop()


@pytest.fixture(params=["sync", "async"])
def agents(embedded_cluster: RealCluster, request: pytest.FixtureRequest) -> Iterator[Agents]:
    with lent(embedded_cluster, request.param) as agents:
        agents.load(**ONCE)
        yield agents


@pytest.fixture
def meanwhile(agents: Agents) -> Iterator[Meanwhile]:
    meanwhile = Meanwhile(agents)
    yield meanwhile
    meanwhile.stop()


def alone(client: Any) -> Any:
    with keyleash.once("a"):
        return client.incr("t:n")


def piped(client: Any) -> Any:
    pipe = client.pipeline(once="a")
    return pipe.set("t:{t:n}k", "v").incr("t:{t:n}n").execute()


def batched(client: Any) -> Any:
    pipe = client.pipeline(transaction=True, once="a")
    return pipe.set("t:{t:n}k", "v").incr("t:{t:n}n").execute()


def value(agents: Agents) -> Any:
    return agents.raw("t:n") or agents.raw("t:{t:n}n")


CALLS = pytest.mark.parametrize("call", [alone, piped, batched])


@CALLS
def test_call_does_not_run_again_under_the_next_token(
    agents: Agents, meanwhile: Meanwhile, call: Callable[[Any], Any]
) -> None:
    """The home denies the lease that the second attempt needs."""
    first = agents.op.tokens.issue("agent")
    agents.token = Tokens(first.token, agents.op.tokens.issue("agent").token)  # type: ignore[assignment]
    client = meanwhile.connect()
    meanwhile.do(lambda: agents.op.tokens.revoke(first.id))

    with pytest.raises(RedisConnectionError) as error:
        call(client)
    assert isinstance(error.value.__cause__, keyleash.TokenRevokedError)
    assert value(agents) == b"1"
    assert client.set("t:m", "v") is True


@CALLS
def test_call_does_not_run_again_under_a_token_that_another_call_fetched(
    agents: Agents, meanwhile: Meanwhile, call: Callable[[Any], Any]
) -> None:
    """All connections share the token."""
    client = meanwhile.connect()
    following = agents.op.tokens.issue("agent").token
    meanwhile.do(lambda: client.session.accept_token(following))

    with pytest.raises(RedisConnectionError):
        call(client)
    assert value(agents) == b"1"
    assert client.set("t:m", "v") is True


@CALLS
@pytest.mark.parametrize("change", ["frozen", "without ids"])
def test_denial_before_the_id_is_looked_up_is_a_lost_connection(
    agents: Agents, meanwhile: Meanwhile, call: Callable[[Any], Any], change: str
) -> None:
    """The call may have run."""
    client = meanwhile.connect()
    meanwhile.do(
        (lambda: agents.op.freeze("agent", reason="r"))
        if change == "frozen"
        else (lambda: agents.load(budget={"writes": "1000/day"}))
    )

    with pytest.raises(RedisConnectionError) as error:
        call(client)
    assert isinstance(error.value.__cause__, keyleash.LeashError)
    assert value(agents) == b"1"


@CALLS
def test_lost_reply_is_replayed_under_another_policy(
    agents: Agents, meanwhile: Meanwhile, call: Callable[[Any], Any]
) -> None:
    """The token and the id are the same."""
    client = meanwhile.connect()
    meanwhile.do(lambda: agents.load(**{**ONCE, "audit": {"values": "length"}}))

    call(client)
    assert value(agents) == b"1"


def test_pipeline_without_an_id_raises_the_lost_connection(
    agents: Agents, meanwhile: Meanwhile
) -> None:
    """As redis-py's does, which has lost connections among its results only if asked to."""
    client = meanwhile.connect()
    meanwhile.do(lambda: None)
    pipe = client.pipeline()
    with pytest.raises(RedisConnectionError):
        pipe.incr("t:n").execute()

    meanwhile.do(lambda: None)
    (lost,) = pipe.incr("t:n").execute(raise_on_error=False)
    assert isinstance(lost, RedisConnectionError)
    assert agents.raw("t:n") == b"2"


@CALLS
def test_home_that_does_not_answer_is_a_lost_connection(
    agents: Agents, meanwhile: Meanwhile, call: Callable[[Any], Any]
) -> None:
    """Without a lease the node does not look for the id, so the call may have run."""
    client = meanwhile.connect()

    def unserved(_: Any) -> Any:
        raise keyleash.SlotNotServedError("its home", "no answer")

    async def unserved_async(_: Any) -> Any:
        unserved(_)

    def end_leases() -> None:
        agents.op.freeze("agent", reason="r")
        agents.op.thaw("agent")
        client.run_at_home = unserved_async if agents.kind == "async" else unserved

    meanwhile.do(end_leases)
    with pytest.raises(RedisConnectionError) as error:
        call(client)
    assert isinstance(error.value.__cause__, keyleash.SlotNotServedError)
    assert value(agents) == b"1"


@pytest.mark.parametrize("call", ["delegate", "renew"])
def test_lost_delegation_or_renewal_is_sent_once(
    agents: Agents, meanwhile: Meanwhile, call: str
) -> None:
    """The home has the child or the new expiry; its secret is lost, or it is charged twice."""
    agents.load(**ONCE, delegate={"depth": 1}, token={"ttl": "1h", "renew": True, "bound": True})
    agents.token = agents.op.tokens.issue("agent").token
    client = meanwhile.connect()
    (before,) = agents.op.status().identities
    meanwhile.do(lambda: None)

    with pytest.raises(RedisConnectionError):
        getattr(client, call)()
    (after,) = agents.op.status().identities
    assert after.events - before.events == 1
    assert len(agents.op.tokens.list()) == (3 if call == "delegate" else 2)
    assert client.set("t:m", "v") is True
