"""Commands of agents through the gateway, and their replies."""

from __future__ import annotations

import time
from collections.abc import Callable

import redis

from keyleash.operator.tokens.revoke import revoke
from support.gateways import Raw, ServedGateway
from support.leash import Leash

Connect = Callable[..., Raw]


def test_a_granted_command_runs_and_another_is_denied(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """The guard decides, and its denial is an error reply."""
    agent = connect(gateway.port, leash.issue("one").token)
    assert agent.call("SET", "k:a", "1") == b"+OK\r\n"
    assert agent.call("SET", "x", "1").startswith(b"-LEASH KEY_NOT_GRANTED key=x (")
    assert leash.admin.get("k:a") == b"1"


def test_a_pipeline_is_one_event_with_replies_in_order(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """Commands that arrive together are one batch, which checks each on its own."""
    agent = connect(gateway.port, leash.issue("one").token)
    agent.call("SET", "k:n", "0")
    agent.send(*[("INCR", "k:n")] * 8, ("GET", "x"), ("INCR", "k:n"))
    replies = [agent.reply() for _ in range(10)]
    assert replies[:8] == [b":%d\r\n" % number for number in range(1, 9)]
    assert replies[8].startswith(b"-LEASH KEY_NOT_GRANTED")
    assert replies[9] == b":9\r\n"


def test_a_transaction_runs_whole(leash: Leash, gateway: ServedGateway, connect: Connect) -> None:
    """MULTI and EXEC are one batch in which each reply has its own shape."""
    agent = connect(gateway.port, leash.issue("one").token)
    agent.send(
        ("MULTI",), ("SET", "k:a", 5), ("GET", "k:a"), ("HSET", "k:h", "f", "v"),
        ("HGETALL", "k:h"), ("EXEC",),
    )  # fmt: skip
    replies = [agent.reply() for _ in range(6)]
    assert replies[:5] == [b"+OK\r\n", *[b"+QUEUED\r\n"] * 4]
    assert replies[5] == b"*4\r\n+OK\r\n$1\r\n5\r\n:1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n"


def test_a_watched_key_that_changes_ends_the_transaction(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """EXEC replies null and runs nothing; the next one runs."""
    agent = connect(gateway.port, leash.issue("one").token)
    for change, expected in ((True, b"*-1\r\n"), (False, b"*1\r\n+OK\r\n")):
        assert agent.call("WATCH", "k:w") == b"+OK\r\n"
        if change:
            leash.admin.set("k:w", "other")
        agent.send(("MULTI",), ("SET", "k:w", "mine"), ("EXEC",))
        assert [agent.reply() for _ in range(3)][2] == expected
    assert leash.admin.get("k:w") == b"mine"


def test_a_blocking_command_holds_no_connection_to_the_server(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """It is polled, and gets what comes."""
    token = leash.issue("one").token
    waiting = [connect(gateway.port, token) for _ in range(5)]
    for agent in waiting:
        agent.send(("BLPOP", "k:q", 10))
    time.sleep(0.2)
    names = [client["name"] for client in leash.admin.client_list()]
    assert names.count("keyleash-gateway") == 1
    leash.admin.rpush("k:q", *"abcde")
    got = {agent.reply() for agent in waiting}
    assert got == {
        b"*2\r\n$3\r\nk:q\r\n$1\r\n%b\r\n" % item for item in (b"a", b"b", b"c", b"d", b"e")
    }


def test_subscriptions_end_when_the_token_is_revoked(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """Messages arrive until then; the connection is closed with the denial."""
    issued = leash.issue("one")
    agent = connect(gateway.port, issued.token)
    assert agent.call("SUBSCRIBE", "c:1") == b"*3\r\n$9\r\nsubscribe\r\n$3\r\nc:1\r\n:1\r\n"
    leash.admin.publish("c:1", "hello")
    assert agent.reply() == b"*3\r\n$7\r\nmessage\r\n$3\r\nc:1\r\n$5\r\nhello\r\n"
    revoke(leash.store, token_id=issued.id)
    assert agent.reply().startswith(b"-LEASH TOKEN_REVOKED")
    assert agent.reply() == b""


def test_redis_py_works_by_its_url_alone(leash: Leash, gateway: ServedGateway) -> None:
    """In both protocols, with pipelines, transactions and locks."""
    token = leash.issue("one").token
    for protocol in (2, 3):
        url = f"redis://one:{token}@127.0.0.1:{gateway.port}/0?protocol={protocol}"
        client = redis.Redis.from_url(url, decode_responses=True)
        client.delete("k:h", "k:z")
        client.hset("k:h", mapping={"a": "1", "b": "2"})
        client.zadd("k:z", {"m": 1.5})
        assert client.hgetall("k:h") == {"a": "1", "b": "2"}
        assert client.zrange("k:z", 0, -1, withscores=True) in ([("m", 1.5)], [["m", 1.5]])
        pipeline = client.pipeline()
        pipeline.incr("k:p")
        pipeline.get("k:none")
        assert pipeline.execute()[1] is None
        with client.lock("k:lock", timeout=5):
            assert client.exists("k:lock") == 1
        assert client.exists("k:lock") == 0
        client.close()
