"""Subscriptions that the agents of an identity share at the gateway."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from keyleash.gateway import channels
from support.gateways import Raw, ServedGateway, gateway_to
from support.leash import Leash
from support.replication import wait_until

Connect = Callable[..., Raw]


@pytest.mark.parametrize(
    ("pattern", "channel"),
    [
        ("c:[!a]", "c:a"), ("c:[^a]", "c:b"), ("c:[^a]", "c:a"), ("c:[b-a]", "c:a"),
        ("c:[a", "c:a"), ("c:[\\]]", "c:]"), ("c:[]a]", "c:a"), ("c:[a\\-c]", "c:b"),
        ("c:\\!", "c:!"), ("c:\\", "c:\\"), ("c:?*", "c:\n\n"), ("c:[]", "c:x"), ("c:1", "c:2"),
        ("c:**1*?", "c:0112"), ("c:*1*1", "c:1"), ("c:*", "c:"),
    ],
)  # fmt: skip
def test_publish_counts_each_listener_to_a_pattern(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, pattern: str, channel: str
) -> None:
    """As the server reads patterns, also within MULTI."""
    token = one_leash.issue("one").token
    publisher, *listeners = (connect(one_gateway.port, token) for _ in range(3))
    for listener in listeners:
        assert b"subscribe" in listener.call("PSUBSCRIBE", pattern)
    # A channel with the name of the pattern is another key.
    for name in ("SUBSCRIBE", "UNSUBSCRIBE"):
        for listener in listeners:
            assert b"subscribe" in listener.call(name, pattern)
    expected = b":%d\r\n" % (2 * one_leash.admin.publish(channel, "x"))

    assert publisher.call("PUBLISH", channel, "x") == expected
    publisher.send(("MULTI",), ("PUBLISH", channel, "x"), ("PUBSUB", "NUMSUB"), ("EXEC",))
    queued = [b"+OK\r\n", *[b"+QUEUED\r\n"] * 2]
    assert [publisher.reply() for _ in range(4)] == [*queued, b"*2\r\n%b*0\r\n" % expected]


def test_pattern_is_compared_in_few_steps() -> None:
    """One with many stars, which a search of all divisions would take years for."""
    assert not re.fullmatch(channels._regex(b"*a" * 40 + b"*b"), b"a" * 1_000)
    assert re.fullmatch(channels._regex(b"*a" * 40 + b"**b?"), b"a" * 1_000 + b"bb")


def test_refused_subscription_leaves_nothing(one_leash: Leash, connect: Connect) -> None:
    """The server does not let the gateway's user subscribe to the channel."""
    admin: Any = one_leash.admin
    admin.acl_setuser(
        "gw", enabled=True, passwords=["+pw"], commands=["+@all"], keys=["*"], channels=["c:ok"]
    )
    token = one_leash.issue("one").token
    url = one_leash.server.url.replace("redis://", "redis://gw:pw@")
    with gateway_to(url) as served:
        stays, refused = connect(served.port, token), connect(served.port, token)
        stays.call("SUBSCRIBE", "c:ok")
        assert refused.call("SUBSCRIBE", "c:no") == b""
        admin.acl_setuser("gw", channels=["*"])
        again = connect(served.port, token)
        again.call("SUBSCRIBE", "c:no")
        publisher = connect(served.port, token)
        assert publisher.call("PUBLISH", "c:no", "x") == b":1\r\n"
        again.close()
        wait_until(lambda: publisher.call("PUBLISH", "c:no", "x") == b":0\r\n")
    admin.acl_deluser("gw")


def test_channels_of_a_command_and_of_a_connection_have_a_bound(
    one_leash: Leash, one_gateway: ServedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more is an error, and the others stay."""
    monkeypatch.setattr(channels, "MAX_AT_ONCE", 3)
    monkeypatch.setattr(channels, "MAX_HEARD", 4)
    agent = connect(one_gateway.port, one_leash.issue("one").token, 3)
    too_many = b"-ERR too many channels of a command or connection\r\n"

    assert agent.call("SUBSCRIBE", "c:1", "c:2", "c:3", "c:4") == too_many
    agent.send(("SUBSCRIBE", "c:1", "c:2", "c:3"))
    assert [agent.reply()[-4:] for _ in range(3)] == [b":1\r\n", b":2\r\n", b":3\r\n"]
    assert agent.call("SUBSCRIBE", "c:4", "c:5") == too_many
    assert agent.call("SUBSCRIBE", "c:4").endswith(b":4\r\n")
