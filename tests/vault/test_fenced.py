"""A sealed agent with an ACL user; `redteam` has the attacks."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import keyleash
from support.fences import FencedLeash
from support.leash import grant
from support.replication import PATIENCE_S
from support.sealed import SEALED, assert_hidden
from support.servers import RealServer
from support.streams import command_of

MARK = b"hidden-mark"
ALL: dict[str, Any] = {
    "grants": [grant("read", "write", "delete", "scan", keys="t:*")],
    "budget": {"requests": "5/month"},
}


def sow(admin: redis.Redis, prefix: str) -> None:
    """Create keys of the same names inside and outside the vault."""
    admin.set(f"{prefix}t:str", MARK)
    admin.set(f"{prefix}t:num", 7)
    admin.rpush(f"{prefix}t:list", MARK, "b")
    admin.hset(f"{prefix}t:hash", MARK, MARK)
    admin.sadd(f"{prefix}t:set", MARK)
    admin.zadd(f"{prefix}t:z", {MARK: 1})
    admin.xadd(f"{prefix}t:stream", {MARK: MARK}, id="1-1")
    admin.xgroup_create(f"{prefix}t:stream", "g", "0")


@pytest.fixture
def leash(server: RealServer) -> FencedLeash:
    leash = FencedLeash(server, SEALED)
    leash.load(one=ALL)
    for prefix in ("", SEALED.vault):
        sow(leash.admin, prefix)
    leash.fence()
    return leash


def content(admin: redis.Redis) -> dict[bytes, Any]:
    """Return all keys and values of the server."""
    client: Any = admin
    return {key: (client.dump(key), client.pexpiretime(key)) for key in client.keys("*")}


class Raw:
    """An agent's user without the keyleash client."""

    def __init__(self, leash: FencedLeash) -> None:
        self.client = leash.direct("one", protocol=2, socket_timeout=PATIENCE_S)
        self.client.response_callbacks.clear()

    def call(self, *words: Any) -> None:
        """Make a call, and check that its reply reveals nothing."""
        try:
            reply: Any = self.client.execute_command(*words)
        except (redis.ResponseError, redis.ConnectionError) as error:
            reply = error
        assert MARK not in str(reply).encode(), words
        assert_hidden(reply)


def test_sealed_agent_with_a_user_works_as_without(leash: FencedLeash) -> None:
    """The client needs only user and password."""
    agent = leash.agent("one")

    assert agent.get("t:str") == MARK
    assert agent.incr("t:num") == 8
    assert agent.blpop(["t:missing", "t:list"], 1) in ([b"t:list", MARK], (b"t:list", MARK))
    pipe = agent.pipeline(transaction=False)
    pipe.hgetall("t:hash")
    pipe.set("t:new", "x")
    assert pipe.execute() == [{MARK: MARK}, True]
    with pytest.raises(keyleash.BudgetExhaustedError):
        agent.get("t:str")
    assert leash.admin.get("t:num") == b"7"
    assert command_of(leash.events("one")[-1]) == ("SET", "t:new")


def test_error_of_a_lost_script_reveals_nothing(leash: FencedLeash) -> None:
    """An agent may neither read the source nor load scripts."""
    agent = leash.agent("one")
    assert agent.get("t:str") == MARK
    leash.admin.script_flush()

    with pytest.raises(redis.ResponseError) as error:
        agent.get("t:str")
    assert_hidden(error.value, error.value.__cause__, error.value.__context__)


def test_no_error_reveals_a_prefix(leash: FencedLeash) -> None:
    """Forged keys, huge and empty arguments, an invalid token."""
    leash.load(one={"grants": ALL["grants"]})
    leash.fence()
    raw, token, digest = Raw(leash), leash.issue("one").token, leash.digest("one")
    before = content(leash.admin)

    for keys, argv in (
        ((), ()),
        ((), (token,)),
        (("t:str",), (token, "c", "GET", "t:list")),
        (("t:str", "t:list"), (token, "c", "GET", "t:str")),
        (("t:str",), (token, "c", "GET", "t:str", "x")),
        (("t:str",), (token, "c", "LPUSH", "t:str", "x")),
        (("t:" + "x" * 100_000,), (token, "c", "INCR", "t:" + "x" * 100_000, "y")),
        (
            ("t:stream",),
            (token, "c", *["XREADGROUP", "GROUP", "x", "c", "STREAMS", "t:stream", ">"]),
        ),
        (("t:str",), ("x" * 100_000, "c", "GET", "t:str")),
        ((), (token, "c", "SCAN", "0", "MATCH", "*")),
        ((), (token, "c", "NOSUCH", "t:str")),
    ):
        raw.call("EVALSHA", digest, len(keys), *keys, *argv)

    changed = {key for key, held in content(leash.admin).items() if before.get(key) != held}
    assert not any(key.startswith((SEALED.vault.encode(), b"t:")) for key in changed)
