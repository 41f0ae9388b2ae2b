"""Modules on a cluster of two nodes."""

from __future__ import annotations

import pytest

import keyleash
from keyleash.servers import EmbeddedCluster
from keyleash.servers.embedded import stack_server as stack
from support.leash import grant, policy
from support.servers import RealServer


def test_json_works_on_a_cluster(stack_server: RealServer) -> None:
    """Each call goes to the node of its keys; the fixture skips the test where there are none."""
    binary, settings = stack()
    with EmbeddedCluster(2, binary=binary, settings=settings) as cluster:
        operator = keyleash.Operator.from_url(cluster.url)
        operator.load(keyleash.Policy(policy(one={"grants": [grant("read", "write", keys="a:*")]})))
        token = operator.tokens.issue("one").token
        with keyleash.RedisCluster.from_url(cluster.url, token=token) as agent:
            for number in range(4):
                agent.execute_command("JSON.SET", f"a:{number}", "$", '{"b":1}')
                assert agent.execute_command("JSON.GET", f"a:{number}", "$..b") == b"[1]"
            assert agent.execute_command("JSON.MSET", "a:{d}1", "$", "1", "a:{d}2", "$", "2")
            assert agent.execute_command("JSON.MGET", "a:{d}1", "a:{d}2", "$") == [b"[1]", b"[2]"]
            with pytest.raises(keyleash.KeyNotGrantedError):
                agent.execute_command("JSON.MGET", "a:{d}1", "b:{d}", "$")
