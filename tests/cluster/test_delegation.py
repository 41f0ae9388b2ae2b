"""Delegation on a cluster, where nodes hold leases of the tokens that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import keyleash
from proofs.redteam.cluster_intruder import PUBLIC, ClusterIntruder
from support.clusters import RealCluster

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    token: {{bound: true, ttl: 1h, max_ttl: 2h{token}}}
    {delegate}
    grants: [{{allow: [read, write], keys: ["jobs:{{job_id}}:*"]}}]
    budget: {{requests: 100000/day}}
"""
KEYS = [f"jobs:42:{number}" for number in range(12)]
"""Of all nodes."""


@pytest.fixture
def op(embedded_cluster: RealCluster) -> Iterator[keyleash.Operator]:
    with keyleash.Operator.from_url(embedded_cluster.url, actor="test") as op:
        load(op)
        yield op


def load(op: keyleash.Operator, delegate: str = "delegate: {depth: 3}", token: str = "") -> None:
    """Load the policy with other rules for delegation."""
    document = POLICY.format(delegate=delegate, token=token)
    op.load(keyleash.Policy(document), allow_widening=True)


class Agents:
    """Clients with tokens of the cluster, which ask for their leases once."""

    def __init__(self, cluster: RealCluster, **user: Any) -> None:
        self._cluster, self._user = cluster, user
        self._clients: dict[str, Any] = {}

    def __call__(self, token: str) -> Any:
        """Return the client with a token."""
        if token not in self._clients:
            url = self._cluster.url
            self._clients[token] = keyleash.RedisCluster.from_url(url, token=token, **self._user)
        return self._clients[token]

    def replies(self, token: str) -> set[str]:
        """Return the code and the detail of each node's reply to a token; empty if it works."""
        found = set()
        for key in KEYS:
            try:
                self(token).set(key, "x")
            except keyleash.LeashError as denial:
                found.add(" ".join([str(denial.code), *map("=".join, denial.details.items())]))
        return found

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


@pytest.fixture
def agents(embedded_cluster: RealCluster) -> Iterator[Agents]:
    agents = Agents(embedded_cluster)
    yield agents
    agents.close()


def test_restriction_that_contains_a_token_is_refused_at_the_home(
    embedded_cluster: RealCluster, op: keyleash.Operator, agents: Agents
) -> None:
    """Also from a client that does not look; neither events nor denials repeat it."""
    secret = op.tokens.issue("agent").token
    agent = agents(secret)
    for wishes in ({"bind": {"job_id": secret}}, {"keys": [f"jobs:42:{secret}"]}):
        with pytest.raises(keyleash.SecretInTextError) as found:
            agent.delegate(**wishes)
        assert secret not in str(found.value)
    assert not agents.replies(secret)

    by = ClusterIntruder(embedded_cluster, "agent", secret)
    home = by.port(PUBLIC.guard("agent").encode())
    head = ("EVALSHA", by.record.lease, 1, PUBLIC.guard("agent"), secret, "c", "delegate")
    for kind, text in (("bind", f"job_id={secret}"), ("keys", f"jobs:42:{secret}"),
                       ("keys", secret.upper()), ("meta", f"a={secret}")):  # fmt: skip
        reply = by.say(home, *head, "0" * 40, "", kind, text)
        assert reply == f"LEASH DELEGATION_REFUSED reason={kind}"

    assert secret not in str((list(op.audit.events("agent")), list(op.audit.denials("agent"))))
    assert len(op.tokens.list("agent")) == 1


def test_children_below_a_lowered_depth_are_denied_at_every_node(
    op: keyleash.Operator, agents: Agents
) -> None:
    """Though nodes had leases of them."""
    root = op.tokens.issue("agent").token
    child = agents(root).delegate(bind={"job_id": 42})
    leaf = agents(child.token).delegate()
    assert not (agents.replies(root) | agents.replies(child.token) | agents.replies(leaf.token))

    load(op, "delegate: {depth: 1}")

    assert agents.replies(leaf.token) == {"TOKEN_REVOKED depth=2"}
    assert not (agents.replies(root) | agents.replies(child.token))
    load(op)
    assert not agents.replies(leaf.token)


def test_children_of_a_token_that_was_rotated_without_delegation_are_over_at_every_node(
    op: keyleash.Operator, agents: Agents
) -> None:
    """A later policy with delegation does not bring them back."""
    issued, childless = op.tokens.issue("agent"), op.tokens.issue("agent")
    child = agents(issued.token).delegate(bind={"job_id": 42})
    for token in (issued.token, childless.token, child.token):
        assert not agents.replies(token)

    load(op, "")
    assert {reply.split()[0] for reply in agents.replies(child.token)} == {"TOKEN_REVOKED"}
    for token in (issued, childless):
        op.tokens.rotate(token.id, grace="10m")
    assert not agents.replies(childless.token)
    assert {reply.split()[0] for reply in agents.replies(issued.token)} == {"TOKEN_REVOKED"}
    load(op)

    assert not agents.replies(issued.token)
    assert agents.replies(child.token) == {f"TOKEN_REVOKED ancestor={issued.id} state=rotated"}
