"""Commands of modules on a cluster of three nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

import keyleash
from client.alike import Awaited, awaiting
from keyleash.addons.servers import EmbeddedCluster
from support.gateways import gateway_to
from support.modules import stack_label, stack_modules, start_script

pytestmark = pytest.mark.stack
POLICY = """
version: 1
identities:
  one:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["d:*"], indexes: [ix]}
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of the cluster, and a token."""
    script = start_script(stack_label(), tmp_path_factory.mktemp("stack"), *stack_modules())
    with EmbeddedCluster(binary=script) as cluster:
        operator = keyleash.Operator.from_url(cluster.url)
        operator.load(keyleash.Policy(POLICY), allow_widening=True)
        yield cluster.url, operator.tokens.issue("one").token


@pytest.mark.parametrize("options", [{}, {"protocol": 2}, {"protocol": 3}], ids=str)
def test_modules_reply_on_a_cluster_as_raw(agent: tuple[str, str], options: dict[str, Any]) -> None:
    """The shortcuts of redis-py, sync and asyncio, and by a gateway, over keys of all nodes."""
    url, token = agent
    with gateway_to(url) as gateway, awaiting() as runner:
        by_gateway = f"redis://one:{token}@127.0.0.1:{gateway.port}"
        of_asyncio: Any = keyleash.asyncio.RedisCluster.from_url(url, token=token, **options)
        outcomes = [
            used(keyleash.RedisCluster.from_url(url, token=token, **options)),
            used(Awaited(of_asyncio, runner)),
            used(redis.Redis.from_url(by_gateway, **options)),
        ]
    raw = used(redis.RedisCluster.from_url(url, **options))

    assert outcomes == [raw] * 3


def test_searches_on_a_cluster_are_denied_with_the_reason(agent: tuple[str, str]) -> None:
    """The module would have to ask other nodes."""
    url, token = agent
    client: Any = keyleash.RedisCluster.from_url(url, token=token)

    with pytest.raises(keyleash.CommandRefusedError, match="on clusters"):
        client.ft("ix").info()
    client.close()


def used(client: Any) -> list[Any]:
    """Return what calls return that leave nothing."""
    outcomes: list[Any] = []
    for number in range(6):
        # A client of asyncio has shortcuts whose calls are awaited here.
        key, call = f"d:{number}", client.execute_command
        client.json()
        client.ts()
        outcomes += [
            call("JSON.SET", key, "$", '{"a": 1, "b": {"a": 2}}'),
            call("JSON.GET", key, "$..a"),
            call("JSON.NUMINCRBY", key, "$..a", 1),
            call("JSON.TYPE", key, "$.a"),
            call("JSON.OBJKEYS", key, "$"),
            call("DEL", key),
            call("JSON.MSET", f"{key}{{d}}1", "$", "1", f"{key}{{d}}2", "$", "2"),
            call("JSON.MGET", f"{key}{{d}}1", f"{key}{{d}}2", "$"),
            call("DEL", f"{key}{{d}}1", f"{key}{{d}}2"),
            call("TS.ADD", key, 1, 2.5),
            call("TS.RANGE", key, "-", "+"),
            call("DEL", key),
        ]
    client.close()
    return outcomes
