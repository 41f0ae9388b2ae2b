"""`durability` on clusters: what too few replicas have, and what then is true of the call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import keyleash
from client.test_errors import assert_unseen
from cluster.conftest import HOME_SLOT, KEYS, Agents, lent
from keyleash import NotReplicatedError
from keyleash.types import DelegatedToken, Renewal
from support.clusters import RealCluster
from support.replication import wait_until

# The clusters of `agents` have no replicas.
HASTY = {"durability": {"wait_replicas": 1, "timeout": "5ms"}}
PATIENT = {"durability": {"wait_replicas": 1, "timeout": "30s"}}
HOLDER: dict[str, Any] = {
    "token": {"bound": True, "renew": True, "ttl": "1h", "max_ttl": "4h"},
    "delegate": {"depth": 1},
}


def test_grant_without_a_replica_is_used(agents: Agents) -> None:
    """Each error is that of the call itself, which has run once, with its event."""
    agents.load(**HASTY, idempotency={"keep": "1h"}, budget={"requests": "100000/day"})
    client = agents.connect()

    with pytest.raises(NotReplicatedError) as of_call:
        client.incr("t:1")
    with pytest.raises(NotReplicatedError) as of_pipeline:
        client.pipeline().incr("t:1").incr("t:2").incr("t:3").execute()
    with pytest.raises(NotReplicatedError) as of_batch:
        client.pipeline(transaction=True).incr("t:1").get("t:1").execute()
    with pytest.raises(NotReplicatedError) as of_once:
        client.execute_command("INCR", "t:1", once="a")
    with pytest.raises(NotReplicatedError) as of_replay:
        agents.connect().execute_command("INCR", "t:1", once="a")

    replies = [error.value.reply for error in (of_call, of_pipeline, of_batch, of_once, of_replay)]
    assert replies == [1, [2, 1, 1], [3, b"3"], 4, 4]
    assert agents.raw("t:1") == b"4"
    (status,) = agents.op.status().identities
    assert status.events == 6


def test_denied_grant_is_raised_as_such(agents: Agents) -> None:
    """Not as an error of WAIT."""
    agents.load(**HASTY, budget={"requests": "1/day"})
    client = agents.connect()
    with pytest.raises(NotReplicatedError):
        client.set("t:1", 1)

    with pytest.raises(keyleash.BudgetExhaustedError):
        client.set("t:1", 2)
    pipe = client.pipeline().set("t:1", 2).set("t:2", 2)
    errors = pipe.execute(raise_on_error=False)
    assert [type(error) for error in errors] == [keyleash.BudgetExhaustedError] * 2


def test_coalesced_tasks_use_grants_without_a_replica(embedded_cluster: RealCluster) -> None:
    """Reads have no error."""
    with lent(embedded_cluster, "async") as agents:
        agents.load(**HASTY)

        async def run() -> list[Any]:
            async with agents.connect_async(coalesce=True) as client:
                calls = [client.incr("t:1"), client.incr("t:1"), client.get("t:1")]
                return await asyncio.gather(*calls, return_exceptions=True)

        *counted, read = asyncio.run(run())
        assert sorted(error.reply for error in counted) == [1, 2]
        assert read in (None, b"1", b"2")


def test_delegation_and_renewal_without_a_replica_return_what_was_made(agents: Agents) -> None:
    """The child's secret is in the reply of the error alone."""
    agents.load(**HASTY, **HOLDER)
    agents.token = agents.op.tokens.issue("agent").token
    client = agents.connect()

    with pytest.raises(NotReplicatedError) as of_child:
        client.delegate(ttl="10m")
    with pytest.raises(NotReplicatedError) as of_renewal:
        client.renew("2h")

    child, renewal = of_child.value.reply, of_renewal.value.reply
    assert isinstance(child, DelegatedToken)
    assert isinstance(renewal, Renewal)
    assert_unseen(child.token, of_child.value)
    assert child.token not in f"{of_child.value} {of_child.value!r} {of_child.value.args}"
    assert client.whoami().expires_at == renewal.expires_at
    agents.token = child.token
    assert agents.connect().whoami().token_id == child.id


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_only_replicas_of_the_nodes_that_were_written_count(
    replicated_cluster: RealCluster, kind: str
) -> None:
    """Other nodes serve writes if no replica has the grant; a demoted one leads to its heir."""
    with lent(replicated_cluster, kind) as agents:
        agents.load(**PATIENT, **HOLDER)
        agents.token = agents.op.tokens.issue("agent").token
        home = replicated_cluster.owner(HOME_SLOT)
        keys = [key for key in KEYS if replicated_cluster.owner(key) is not home]
        client = agents.connect()
        assert client.delegate(ttl="10m").identity == "agent"
        assert client.renew().identity == "agent"
        assert client.set(keys[0], 1) is True
        demoted = replicated_cluster.owner(keys[0])
        promoted = replicated_cluster.replica_of(demoted)
        replicated_cluster.is_changed = True
        promoted.admin.cluster("FAILOVER")
        wait_until(lambda: promoted.is_primary and not demoted.is_primary)
        promoted.settle()
        assert client.set(keys[0], 2) is True

        agents.load(durability={"wait_replicas": 1, "timeout": "200ms"})
        others = [replicated_cluster.replica_of(node) for node in (home, promoted)]
        others[0].halt()

        pipe = agents.connect().pipeline()
        for key in keys:
            pipe.set(key, 3)
        assert pipe.execute() == [True] * len(keys)
        others[1].halt()
        with pytest.raises(NotReplicatedError) as caught:
            client.incr(keys[0])
        assert caught.value.reply == 4
        assert promoted.admin.get(keys[0]) == b"4"
