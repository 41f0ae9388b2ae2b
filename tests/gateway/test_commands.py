"""Commands of agents through the gateway, and their replies."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

import keyleash
from gateway.conftest import BROAD
from keyleash.operator.tokens.revoke import revoke
from support.gateways import Raw, ServedGateway, request
from support.leash import Leash, grant

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


def test_replies_after_unsubscribing_come_after_its_confirmations(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """Also if all arrive together, and in each protocol."""
    for protocol, head in ((2, b"*"), (3, b">")):
        agent = connect(gateway.port, leash.issue("one").token, protocol)
        agent.send(
            ("SUBSCRIBE", "c:1", "c:2"), ("PSUBSCRIBE", "c:*"), ("UNSUBSCRIBE",),
            ("PUNSUBSCRIBE", "c:*"), ("SET", "k:a", "1"), ("UNSUBSCRIBE",), ("GET", "k:a"),
        )  # fmt: skip
        replies = [agent.reply() for _ in range(9)]
        kinds = [b"subscribe", b"subscribe", b"psubscribe", *[b"unsubscribe"] * 2, b"punsubscribe"]
        expected = [head + b"3\r\n$%d\r\n%b\r\n" % (len(kind), kind) for kind in kinds]
        for reply, start in zip(replies, expected, strict=False):
            assert reply.startswith(start)
        assert replies[6] == b"+OK\r\n"
        assert b"unsubscribe" in replies[7]
        assert replies[8] == b"$1\r\n1\r\n"


def test_each_unsubscription_is_confirmed(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """Also after the last subscription has ended, and a new one may follow at once."""
    agent = connect(gateway.port, leash.issue("one").token)
    agent.send(("SUBSCRIBE", "c:1"), ("UNSUBSCRIBE", "c:1", "c:2"), ("SUBSCRIBE", "c:3"))
    for kind, channel, count in (
        (b"subscribe", b"c:1", 1),
        (b"unsubscribe", b"c:1", 0),
        (b"unsubscribe", b"c:2", 0),
        (b"subscribe", b"c:3", 1),
    ):
        head = b"*3\r\n$%d\r\n%b\r\n" % (len(kind), kind)
        assert agent.reply() == head + b"$3\r\n%b\r\n:%d\r\n" % (channel, count)
    leash.admin.publish("c:3", "hello")
    assert agent.reply().endswith(b"hello\r\n")


def test_confirmation_for_an_agent_that_left_reaches_no_other(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """The connection to the server, on which it comes, serves none again."""
    token = leash.issue("one").token
    for _ in range(20):
        leaves = connect(gateway.port, token)
        assert leaves.call("SUBSCRIBE", "c:1")
        leaves.send(("UNSUBSCRIBE", *[f"c:{number}" for number in range(100)]))
        leaves.close()
        other = connect(gateway.port, token)
        assert other.call("WATCH", "k:a") == b"+OK\r\n"
        assert other.call("GET", "k:none") == b"$-1\r\n"
        assert other.call("UNWATCH") == b"+OK\r\n"
        other.close()


def test_transaction_with_an_error_in_its_queue_runs_nothing(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """As on a server: EXEC says so."""
    agent = connect(gateway.port, leash.issue("one").token)
    for wrong, error in (
        (("GET",), b"-ERR wrong number of arguments for 'get' command\r\n"),
        (
            ("OBJECT", "encoding"),
            b"-ERR wrong number of arguments for 'object|encoding' command\r\n",
        ),
        (("SUBSCRIBE", "c:1"), b"-LEASH COMMAND_REFUSED command=SUBSCRIBE"),
    ):
        agent.send(("MULTI",), ("SET", "k:t", "1"), wrong, ("EXEC",))
        replies = [agent.reply() for _ in range(4)]
        assert replies[2].startswith(error)
        assert replies[3] == b"-EXECABORT Transaction discarded because of previous errors.\r\n"
    assert leash.admin.get("k:t") is None


def test_commands_of_the_connection_within_multi_are_answered_after_exec(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """In their places, errors included; not if the transaction is denied or a watch was lost."""
    agent = connect(gateway.port, leash.issue("one").token)
    own = [("CLIENT", "SETNAME", "a"), ("INCR", "k:i"), ("SELECT", 9), ("CLIENT", "GETNAME")]
    agent.send(("MULTI",), *own, ("EXEC",), ("MULTI",), ("CLIENT", "SETNAME", "b"), ("GET", "x"))
    replies = [agent.reply() for _ in range(9)]
    assert replies[1:5] == [b"+QUEUED\r\n"] * 4
    assert replies[5] == (
        b"*4\r\n+OK\r\n:1\r\n-ERR tokens are for database 0, and no other can be selected\r\n"
        b"$1\r\na\r\n"
    )
    assert agent.call("EXEC").startswith(b"-LEASH KEY_NOT_GRANTED")
    assert agent.call("WATCH", "k:w") == b"+OK\r\n"
    leash.admin.set("k:w", "other")
    agent.send(("MULTI",), ("CLIENT", "SETNAME", "b"), ("EXEC",), ("CLIENT", "GETNAME"))
    assert [agent.reply() for _ in range(4)][2:] == [b"*-1\r\n", b"$1\r\na\r\n"]


def test_confirmations_of_unsubscribe_within_multi_are_in_the_reply_to_exec(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """In their places, as pushes."""
    agent = connect(gateway.port, leash.issue("one").token, 3)
    agent.send(("SUBSCRIBE", "c:1", "c:2"), ("MULTI",), ("PING", "a"), ("UNSUBSCRIBE", "c:1"))
    agent.send(("PING", "b"), ("EXEC",))
    replies = [agent.reply() for _ in range(7)]
    confirmed = b">3\r\n$11\r\nunsubscribe\r\n$3\r\nc:1\r\n:1\r\n"
    assert replies[-1] == b"*3\r\n$1\r\na\r\n" + confirmed + b"$1\r\nb\r\n"


def test_transaction_that_the_server_refuses_as_a_whole_is_aborted(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """Here for want of replicas."""
    agent = connect(gateway.port, leash.issue("one").token)
    leash.admin.config_set("min-replicas-to-write", 1)
    agent.send(("MULTI",), ("SET", "k:t", "1"), ("EXEC",))
    reply = [agent.reply() for _ in range(3)][2]
    assert reply.startswith(b"-EXECABORT Transaction discarded because of: NOREPLICAS ")
    leash.admin.config_set("min-replicas-to-write", 0)


@pytest.mark.parametrize("is_open", [True, False])
def test_exec_with_a_word_too_many_discards_the_transaction(
    leash: Leash, gateway: ServedGateway, connect: Connect, is_open: bool
) -> None:
    """And its watch, as on a server."""
    agent = connect(gateway.port, leash.issue("one").token)
    agent.send(("WATCH", "k:t"), *([("MULTI",), ("SET", "k:t", "1")] if is_open else []))
    agent.send(("EXEC", "x"), ("EXEC",))
    replies = [agent.reply() for _ in range(5 if is_open else 3)]
    assert replies[-2] == (
        b"-EXECABORT Transaction discarded because of:"
        b" wrong number of arguments for 'exec' command\r\n"
    )
    assert replies[-1] == b"-ERR EXEC without MULTI\r\n"
    leash.admin.set("k:t", "other")
    agent.send(("MULTI",), ("SET", "k:t", "2"), ("EXEC",))
    assert [agent.reply() for _ in range(3)][2] == b"*1\r\n+OK\r\n"


def test_inline_commands_work_before_and_after_login(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """As load balancers and people type them; the lines of HTTP close the connection."""
    agent = connect(gateway.port)
    for line, reply in (
        (b"PING", b"-NOAUTH Authentication required.\r\n"),
        (b"auth one " + leash.issue("one").token.encode(), b"+OK\r\n"),
        (b"PING", b"+PONG\r\n"),
        (b"set k:a 'a b'", b"+OK\r\n"),
        (b"get k:a", b"$3\r\na b\r\n"),
    ):
        agent.socket.sendall(line + b"\r\n")
        assert agent.reply() == reply
    for line in (b"POST / HTTP/1.1\r\n", b"Host: localhost\r\n"):
        browser = connect(gateway.port)
        browser.socket.sendall(line)
        assert browser.reply() == b""


def test_flush_of_the_own_keys_is_answered_as_by_a_server(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """Where the policy says so; otherwise denied, as all words that no server takes."""
    agent = connect(gateway.port, leash.issue("one").token)
    agent.call("SET", "k:a", "1")
    assert agent.call("DBSIZE") == b":1\r\n"
    assert agent.call("FLUSHDB").startswith(b"-LEASH COMMAND_REFUSED command=FLUSHDB")
    leash.load(one={**BROAD, "token": {"flush": "own"}})
    agent = connect(gateway.port, leash.issue("one").token)
    assert agent.call("FLUSHALL", "NOW").startswith(b"-LEASH COMMAND_REFUSED command=FLUSHALL")
    assert agent.call("FLUSHALL", "ASYNC") == b"+OK\r\n"
    assert agent.call("DBSIZE") == b":0\r\n"


def test_transaction_of_a_thousand_commands_runs(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """As many as a guard runs in one call; more abort it when they are queued."""
    leash.load(one={**BROAD, "limits": {"work": 10**9, "strings": 10**9}})
    agent = connect(gateway.port, leash.issue("one").token)
    for count, expected in ((1000, b"*1000\r\n"), (1001, b"-EXECABORT ")):
        commands = [("HSET", f"k:{number}", "a", "1", "b", "2", "c") for number in range(count)]
        agent.send(("MULTI",), *[words[:6] for words in commands], ("EXEC",))
        replies = [agent.reply() for _ in range(count + 2)]
        assert replies[-1].startswith(expected)


def test_gateway_answers_as_a_standalone_server(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """redis-cli sends READONLY before it scans, and goes on after this error alone."""
    agent = connect(gateway.port, leash.issue("one").token)
    for words in (("READONLY",), ("READWRITE",), ("ASKING",), ("CLUSTER", "NODES")):
        assert agent.call(*words) == b"-ERR This instance has cluster support disabled\r\n"
    keys = ("GETKEYS", "EVAL", "return 1", 1, "x", "y")
    assert agent.call("COMMAND", *keys) == b"*1\r\n$1\r\nx\r\n"
    assert agent.call("COMMAND", "GETKEYS", "PING").startswith(b"-ERR The command has no key")
    assert agent.call("COMMAND", "GETKEYS", "NONE").startswith(b"-ERR Invalid command")
    for text in ("GET", "SET a", "GET a b"):
        reply = agent.call("COMMAND", "GETKEYS", *text.split())
        assert reply.startswith(b"-ERR Invalid number of arguments")
    assert agent.call("COMMAND", "GETKEYS").startswith(b"-ERR wrong number of arguments")
    assert agent.call("CLIENT", "SETNAME", "a b").startswith(b"-ERR Client names cannot contain")
    assert agent.call("HELLO", 2, "SETNAME", "job").startswith(b"*14")
    for start in ("CLIENT SETNAME", "HELLO 2 SETNAME"):
        assert b"cannot be longer than 1024 bytes" in agent.call(*start.split(), "n" * 1025)
    assert agent.call("CLIENT", "GETNAME") == b"$3\r\njob\r\n"
    assert leash.denials("one") == []


def test_hello_with_a_bad_name_changes_nothing(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """Neither the protocol nor the login, as on a server."""
    token = one_leash.issue("one").token
    agent, stranger = connect(one_gateway.port, token, 3), connect(one_gateway.port)
    for raw in (agent, stranger):
        words = ("HELLO", 2, "AUTH", "one", token, "SETNAME", "a b")
        assert raw.call(*words).startswith(b"-ERR Client names cannot contain")
    assert agent.call("GET", "k:none") == b"_\r\n"
    assert stranger.call("GET", "k:none").startswith(b"-NOAUTH")


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


def test_a_connection_that_changes_its_token_takes_nothing_of_the_old_one_along(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """After AUTH with another token, calls are those of the new one, for others as well."""
    leash.load(one=BROAD, two={"grants": [grant("read", keys="k:*")]})
    tokens = [leash.issue(name).token for name in ("one", "two")]
    agent = connect(gateway.port, tokens[0], 3)
    agent.call("SUBSCRIBE", "c:1")
    assert agent.call("AUTH", tokens[1]).startswith(b"-ERR end the subscriptions")
    assert agent.call("UNSUBSCRIBE", "c:1")
    assert agent.call("AUTH", tokens[1]) == b"+OK\r\n"
    others = [connect(gateway.port, tokens[1]) for _ in range(3)]
    for other in (agent, *others):
        assert other.call("SET", "k:a", 1).startswith(b"-LEASH CLASS_NOT_GRANTED")


def test_agents_that_leave_early_leave_no_reply_to_others(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """Connections close while calls of every kind are under way; others get their own replies."""
    token = leash.issue("one").token
    stays = connect(gateway.port, token)
    kinds: list[list[tuple[object, ...]]] = [
        [("SET", "k:x", "theirs")],
        [("MULTI",), ("SET", "k:x", "theirs"), ("GET", "k:x"), ("EXEC",)],
        [("WATCH", "k:x"), ("GET", "k:x")],
        [("BLPOP", "k:none", 5)],
        [("KEYS", "k:*"), ("INFO",)],
        [("GET", "k:x")] * 40,
        [("SUBSCRIBE", "c:1")],
    ]
    for number in range(60):
        for commands in kinds:
            leaves = Raw(gateway.port)
            leaves.send(("AUTH", token), *commands)
            if number % 3:
                leaves.reply()
            leaves.close()
        assert stays.call("SET", f"k:{number}", number) == b"+OK\r\n"
        assert stays.call("GET", f"k:{number}") == b"$%d\r\n%d\r\n" % (len(str(number)), number)


def test_a_write_that_too_few_replicas_have_is_reported(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """The error says that it ran; commands beside it have their own replies."""
    leash.load(one={**BROAD, "durability": {"wait_replicas": 1, "timeout": "20ms"}})
    agent = connect(gateway.port, leash.issue("one").token)
    agent.send(("SET", "k:a", 1), ("GET", "k:a"))
    assert agent.reply().startswith(b"-NOTREPLICATED the call was done")
    assert agent.reply() == b"$1\r\n1\r\n"


def test_a_command_with_an_id_runs_once(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """KEYLEASH ONCE before a command, or before EXEC, gives the call an idempotency id."""
    leash.load(one={**BROAD, "idempotency": {"keep": "1h"}})
    agent = connect(gateway.port, leash.issue("one").token)
    for _ in range(2):
        assert agent.call("KEYLEASH", "ONCE", "a", "INCR", "k:n") == b":1\r\n"
        agent.send(("MULTI",), ("INCR", "k:m"), ("KEYLEASH", "ONCE", "b", "EXEC"))
        assert [agent.reply() for _ in range(3)][2] == b"*1\r\n:1\r\n"


def test_calls_have_the_name_of_the_client_and_its_address(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """CLIENT SETNAME gives the correlation id, the connection otherwise; and the source."""
    leash.load(one={**BROAD, "audit": {"source": True}})
    agent = connect(gateway.port, leash.issue("one").token)
    number = agent.call("CLIENT", "ID")[1:-2].decode()
    agent.call("SET", "k:a", 1)
    agent.call("CLIENT", "SETNAME", "req-7")
    agent.send(("SET", "k:a", 2), ("SET", "k:b", 3))
    assert [agent.reply() for _ in range(2)] == [b"+OK\r\n"] * 2
    host, port = agent.socket.getsockname()
    events = [*keyleash.Operator(leash.admin).audit.events("one")]
    assert [event.correlation for event in events] == [f"gw-{number}", "req-7", "req-7"]
    assert {event.source for event in events} == {f"{host}:{port}"}


def test_client_list_has_the_connections_of_the_own_token_alone(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """In the format of a server, whose fields libraries read."""
    token, other = leash.issue("one").token, leash.issue("one").token
    agents = [connect(gateway.port, token) for _ in range(2)]
    connect(gateway.port, other).call("CLIENT", "SETNAME", "other")
    agents[1].call("HELLO", 3, "SETNAME", "bull:am9icw==:w:a")
    client = redis.Redis(port=gateway.port, username="one", password=token, protocol=2)
    *listed, last = client.client_list()
    numbers = [agent.call("CLIENT", "ID")[1:-2].decode() for agent in agents]
    assert [item["id"] for item in listed] == numbers
    assert [item["name"] for item in listed] == ["", "bull:am9icw==:w:a"]
    assert [item["addr"].split(":")[1] for item in listed] == [
        str(agent.socket.getsockname()[1]) for agent in agents
    ]
    assert {item["user"] for item in listed} == {"one"}
    assert last == {name: str(value) for name, value in client.client_info().items()}
    agents[0].send(("MULTI",), ("CLIENT", "LIST"), ("EXEC",))
    assert [agents[0].reply() for _ in range(3)][2].count(b"id=") == 3
    assert agents[0].call("CLIENT", "LIST", "TYPE", "normal").startswith(b"-LEASH COMMAND_REFUSED")


def test_empty_lines_between_requests_are_ignored(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """`redis-cli --pipe` sends one, and a server ignores it."""
    agent = connect(gateway.port, leash.issue("one").token)
    agent.socket.sendall(b"\r\n\r\n" + request(("SET", "k:a", "1")) + b"\r\n")
    assert agent.reply() == b"+OK\r\n"
    assert agent.call("GET", "k:a") == b"$1\r\n1\r\n"


def test_connections_of_redis_py_8_record_no_denial(leash: Leash, gateway: ServedGateway) -> None:
    """It asks for notifications that servers without them do not know, and goes on."""
    token = leash.issue("one").token
    client = redis.Redis.from_url(f"redis://one:{token}@127.0.0.1:{gateway.port}?protocol=3")
    assert client.set("k:a", "1")
    client.close()
    assert leash.denials("one") == []


def test_an_id_is_not_for_subscriptions(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """Their confirmations would reach the next agent on the same connection to the server."""
    leash.load(one={**BROAD, "idempotency": {"keep": "1h"}})
    agent = connect(gateway.port, leash.issue("one").token)
    for command in ("SUBSCRIBE", "UNSUBSCRIBE"):
        reply = agent.call("KEYLEASH", "ONCE", "a", command, "c:1", "c:2")
        assert reply == b"-ERR only a command that the guard runs takes an id\r\n"
    assert agent.call("PING") == b"+PONG\r\n"


def test_subscriptions_beside_a_watch_are_confirmed(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """In RESP3, where other commands go on: the watch and its transaction, too."""
    agent = connect(gateway.port, leash.issue("one").token, 3)
    assert agent.call("WATCH", "k:w") == b"+OK\r\n"
    agent.send(
        ("SUBSCRIBE", "c:1", "c:2"), ("GET", "k:w"), ("MULTI",), ("SET", "k:w", 1), ("EXEC",)
    )
    replies = [agent.reply() for _ in range(6)]
    assert [reply[:1] for reply in replies[:2]] == [b">", b">"]
    assert replies[2:] == [b"_\r\n", b"+OK\r\n", b"+QUEUED\r\n", b"*1\r\n+OK\r\n"]


def test_the_last_sharded_subscription_ends_no_other(
    leash: Leash, gateway: ServedGateway, connect: Connect
) -> None:
    """Servers count the two kinds apart."""
    agent = connect(gateway.port, leash.issue("one").token)
    agent.send(("SUBSCRIBE", "c:1"), ("SSUBSCRIBE", "c:2"), ("SUNSUBSCRIBE", "c:2"))
    assert [agent.reply()[-4:] for _ in range(3)] == [b":1\r\n", b":1\r\n", b":0\r\n"]
    leash.admin.publish("c:1", "hello")
    assert agent.reply().endswith(b"hello\r\n")
