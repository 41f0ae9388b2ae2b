"""Learn from the streams of all shards of a cluster."""

from __future__ import annotations

from typing import Any

import keyleash
from support.clusters import RealCluster

POLICY = """\
version: 1
identities:
  worker:
    kind: machine
    grants: [{allow: [read, write], keys: ["*"]}]
    audit: {reads: true}
"""


def test_calls_of_all_shards_become_one_policy(cluster: RealCluster) -> None:
    """Each shard numbers its events itself, and none is missing."""
    operator = keyleash.Operator.from_url(cluster.url)
    operator.load(keyleash.Policy(POLICY))
    token = operator.tokens.issue("worker").token
    client: Any = keyleash.RedisCluster.from_url(cluster.url, token=token)
    for number in range(60):
        client.set(f"jobs:{number}", 1)

    (identity,) = operator.learn().identities

    assert [(rule.pattern, rule.calls) for rule in identity.rules] == [("jobs:{job_id}", 60)]
    assert identity.coverage.holes == []
