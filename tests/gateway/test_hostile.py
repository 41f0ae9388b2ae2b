"""Connections that try to reach what agents share, or to take it from others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import keyleash
from gateway.conftest import BROAD
from keyleash.gateway.upstream import MAX_OF_IDENTITY
from support.clusters import RealCluster
from support.gateways import Raw, ServedGateway, gateway_to
from support.leash import Leash, grant, policy
from support.replication import wait_until

Connect = Callable[..., Raw]
STATES = [(), (("WATCH", "k:a"),), (("MULTI",),)]


def upstream(leash: Leash) -> list[dict[str, str]]:
    """Return name, flags and database of the gateway's connections to the server."""
    clients: Any = leash.admin.client_list()
    return [
        {field: client[field] for field in ("name", "flags", "db")}
        for client in clients
        if client["id"] != str(leash.admin.client_id())
    ]


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("head", ["CLIENT ", "CLIENT\t", "CLIENT", "KEYLEASH ONCE a CLIENT"])
def test_no_client_command_reaches_the_shared_connection(
    one_leash: Leash,
    one_gateway: ServedGateway,
    connect: Connect,
    head: str,
    before: tuple[tuple[str, ...], ...],
) -> None:
    """Neither in a watch, nor with an id, nor with a blank in its name."""
    raw = connect(one_gateway.port, one_leash.issue("one").token)
    name = [head] if head[-1].isspace() else head.split()
    for words in before:
        raw.call(*words)

    for sub, *more in (("INFO",), ("SETNAME", "forged"), ("NO-TOUCH", "ON"), ("TRACKINGINFO",)):
        command = [f"{name[0]}{sub}"] if len(name) == 1 and head != "CLIENT" else [*name, sub]
        reply = raw.call(*command, *more)
        assert b"laddr=" not in reply
        assert b"redirect" not in reply

    assert {client["name"] for client in upstream(one_leash)} == {"keyleash-gateway"}
    assert {client["flags"] for client in upstream(one_leash)} <= {"N", "x"}


def test_connections_that_go_away_under_a_watch_leave_nothing_behind(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """Whatever was under way: the gateway has few connections for watches."""
    token = one_leash.issue("one").token

    for number in range(20):
        raw = connect(one_gateway.port, token)
        raw.call("WATCH", "k:a")
        raw.send(*[("GET", "k:a")] * (number % 3), ("BLPOP", "k:none", "0"))
        if number % 3:
            raw.reply()
        raw.close()

    kept = connect(one_gateway.port, token)
    assert kept.call("WATCH", "k:a") == b"+OK\r\n"
    wait_until(lambda: len(upstream(one_leash)) <= 2)


def test_reset_ends_a_watch_and_a_transaction_on_a_cluster(
    embedded_cluster: RealCluster, connect: Connect
) -> None:
    """As on one server: the connection stays, and has to log in again."""
    with keyleash.Operator.from_url(embedded_cluster.url, actor="test") as op:
        op.load(keyleash.Policy(policy(one={"grants": [grant("read", "write", keys="k:*")]})))
        token = op.tokens.issue("one").token
    with gateway_to(embedded_cluster.url) as served:
        raw = connect(served.port, token)
        for begin in ("WATCH", "MULTI"):
            raw.call(*(begin, "k:a")[: 2 - (begin == "MULTI")])
            assert raw.call("RESET") == b"+RESET\r\n"
            assert raw.call("GET", "k:a").startswith(b"-NOAUTH")
            assert raw.call("AUTH", token) == b"+OK\r\n"
        assert raw.call("EXEC").startswith(b"-ERR EXEC without MULTI")


@pytest.mark.parametrize(
    "words",
    [
        ("CLIENT", "SETNAME", "{token}"),
        ("HELLO", "2", "SETNAME", "{token}"),
        ("KEYLEASH", "ONCE", "{token}", "SET", "k:a", "x"),
        ("KEYLEASH", "ONCE", "", "SET", "k:a", "x"),
        ("KEYLEASH", "ONCE", "x" * 201, "SET", "k:a", "x"),
        ("KEYLEASH", "ONCE", "a\nb", "SET", "k:a", "x"),
    ],
)
def test_a_text_that_may_not_be_recorded_is_an_error_reply(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, words: tuple[str, ...]
) -> None:
    """The connection goes on, and the reply has no token."""
    token = one_leash.issue("one").token
    raw = connect(one_gateway.port, token)

    reply = raw.call(*(word.format(token=token) for word in words))

    assert reply.startswith((b"-ERR ", b"-SECRETINTEXT "))
    assert reply.count(b"\r\n") == 1
    assert token.encode() not in reply
    assert raw.call("GET", "k:a") == b"$-1\r\n"


def test_agents_of_one_identity_leave_connections_for_watches_to_others(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """Also if they all ask at once; who gives one back gets one again."""
    one_leash.load(one=BROAD, two=BROAD)
    tokens = [one_leash.issue("one").token for _ in range(2)]
    raws = [connect(one_gateway.port, tokens[number % 2]) for number in range(300)]

    for raw in raws:
        raw.send(("WATCH", "k:a"))
    replies = [raw.reply() for raw in raws]

    assert replies.count(b"+OK\r\n") == MAX_OF_IDENTITY
    assert all(reply.startswith((b"+OK", b"-NOTSENT")) for reply in replies)
    assert len(upstream(one_leash)) <= MAX_OF_IDENTITY + 1
    other = connect(one_gateway.port, one_leash.issue("two").token)
    assert other.call("WATCH", "k:a") == b"+OK\r\n"
    assert raws[replies.index(b"+OK\r\n")].call("UNWATCH") == b"+OK\r\n"
    assert connect(one_gateway.port, tokens[0]).call("WATCH", "k:a") == b"+OK\r\n"


@pytest.mark.parametrize("name", ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"])
def test_subscribing_to_nothing_is_an_error_as_on_a_server(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, name: str
) -> None:
    """The connection goes on."""
    raw = connect(one_gateway.port, one_leash.issue("one").token)

    assert raw.call(name).startswith(b"-ERR wrong number of arguments")
    assert raw.call("GET", "k:a") == b"$-1\r\n"


def test_a_question_about_scripts_alone_in_a_transaction_is_answered(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect
) -> None:
    """As one reply of EXEC, with an answer for each digest."""
    raw = connect(one_gateway.port, one_leash.issue("one").token)

    raw.send(("MULTI",), ("SCRIPT", "EXISTS", "a", "b", "c"), ("EXEC",))

    assert [raw.reply() for _ in range(3)][-1] == b"*1\r\n*3\r\n:0\r\n:0\r\n:0\r\n"
