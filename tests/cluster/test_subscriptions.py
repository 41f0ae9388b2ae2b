"""Subscriptions on clusters: they last as long as the right to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio

import keyleash
from client.test_subscriptions import listener, next_message
from cluster.conftest import HOME_SLOT, Agents, lent
from keyleash.client.guarding import Guarding
from support.clusters import RealCluster
from support.leash import grant

pytestmark = [
    pytest.mark.skipif(
        not hasattr(redis.asyncio.RedisCluster, "pubsub"),
        reason="this redis-py has no subscriptions of asyncio on clusters",
    ),
    pytest.mark.usefixtures("often"),
]
CHANNEL = "t:channel"


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check subscriptions ten times a second."""
    monkeypatch.setattr(Guarding, "check_every_s", 0.1)


class Subscriber:
    """A subscription to `CHANNEL`, by name or in its slot alone."""

    def __init__(self, agents: Agents, kind: str) -> None:
        self._cluster = agents.cluster
        self._is_sharded = kind == "ssubscribe"
        self.client = client = agents.connect()
        # Until then an asyncio client of redis-py does not know the nodes.
        client.get("t:1")
        self._pubsub = listener(client)
        getattr(self._pubsub, kind)(CHANNEL)
        assert self._next() == (kind, CHANNEL.encode(), 1)

    def _next(self) -> tuple[str, Any, Any]:
        if not self._is_sharded:
            return next_message(self._pubsub)
        while (message := self._pubsub.get_sharded_message(timeout=1)) is None:
            pass
        return message["type"], message["channel"], message["data"]

    def hear(self, text: str) -> None:
        """Publish a text at the node of the channel; wait until it is delivered."""
        self._cluster.owner(CHANNEL).admin.execute_command(
            "SPUBLISH" if self._is_sharded else "PUBLISH", CHANNEL, text
        )
        message = self._next()
        assert message[1:] == (CHANNEL.encode(), text.encode()), message

    def read_on(self) -> None:
        """Read until an error ends it."""
        read = "get_sharded_message" if self._is_sharded else "get_message"
        while True:
            getattr(self._pubsub, read)(timeout=0.05)


def hear_while_checked(cluster: RealCluster, subscriber: Subscriber) -> None:
    """Hear messages until the home was asked five times."""

    def calls() -> int:
        stats = cluster.owner(HOME_SLOT).admin.info("commandstats")
        return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])

    before = calls()
    while calls() < before + 5:
        subscriber.hear("x")


def revoke(agents: Agents) -> None:
    agents.op.tokens.revoke(identity="agent")


def freeze(agents: Agents) -> None:
    agents.op.freeze("agent", reason="test")


def narrow(agents: Agents) -> None:
    agents.load(grants=[grant("read", keys="t:*")])


ENDS: list[tuple[Callable[[Agents], None], type[keyleash.LeashError]]] = [
    (revoke, keyleash.TokenRevokedError),
    (freeze, keyleash.SuspendedError),
    (narrow, keyleash.ClassNotGrantedError),
]


@pytest.mark.parametrize("kind", ["subscribe", "ssubscribe"])
@pytest.mark.parametrize(("end", "error"), ENDS, ids=[end.__name__ for end, _ in ENDS])
def test_subscription_lasts_until_its_right_ends(
    agents: Agents, kind: str, end: Callable[[Agents], None], error: type[keyleash.LeashError]
) -> None:
    """Checks at the home charge and record nothing."""
    subscriber = Subscriber(agents, kind)
    (before,) = agents.op.status().identities
    hear_while_checked(agents.cluster, subscriber)
    (after,) = agents.op.status().identities
    assert (after.events, after.limits[0].used) == (before.events, before.limits[0].used)

    end(agents)

    with pytest.raises(error):
        subscriber.read_on()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_subscription_outlives_the_home_and_ends_with_its_token(
    replicated_cluster: RealCluster, kind: str
) -> None:
    """The new home knows the token, and its revocation; the node of before stays dead."""
    with lent(replicated_cluster, kind) as agents:
        subscriber = Subscriber(agents, "subscribe")
        home = replicated_cluster.owner(HOME_SLOT)
        assert home is not replicated_cluster.owner(CHANNEL)
        home.settle()
        home.kill()
        subscriber.hear("while no node is the home")
        replicated_cluster.wait_until_served()
        hear_while_checked(replicated_cluster, subscriber)

        revoke(agents)

        with pytest.raises(keyleash.TokenRevokedError):
            subscriber.read_on()


@pytest.mark.parametrize("failures", [7, 8])
def test_home_that_does_not_answer_is_asked_eight_times(some_agents: Agents, failures: int) -> None:
    """In about 29 s, more than a failover takes; then the subscription ends."""
    left = failures

    def fail() -> None:
        nonlocal left
        if left:
            left -= 1
            raise keyleash.SlotNotServedError("its home", "TimeoutError")

    subscriber = Subscriber(some_agents, "subscribe")
    client = subscriber.client
    run_at_home = client.run_at_home if some_agents.kind == "sync" else client._inner.run_at_home

    def run(action: Any) -> Any:
        fail()
        return run_at_home(action)

    async def arun(action: Any) -> Any:
        fail()
        return await run_at_home(action)

    client.run_at_home = run if some_agents.kind == "sync" else arun

    if failures < 8:
        while left:
            subscriber.hear("x")
        subscriber.hear("x")
    else:
        with pytest.raises(keyleash.SlotNotServedError):
            subscriber.read_on()
