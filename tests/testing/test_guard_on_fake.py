"""Guards run in process: the example policy on the fake, without any server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest

import keyleash
from keyleash.compiler.render import examples_root
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.issue import issue_token
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.store import Store
from keyleash.testing import fake_async_redis, fake_redis, fake_server
from support.loading import load_policy

Agents = Callable[[str], keyleash.Redis]


@pytest.fixture
def admin():  # type: ignore[no-untyped-def]
    client = fake_redis(fake_server())
    load_policy(Store(client), (examples_root() / "agents.yaml").read_text())
    return client


@pytest.fixture
def agent(admin) -> Agents:  # type: ignore[no-untyped-def]
    def made(identity: str) -> keyleash.Redis:
        token = issue_token(Store(admin), identity).token
        return keyleash.Redis(connection_pool=admin.connection_pool, token=token)

    return made


def test_allowed_call_answers_as_redis_py_would(agent: Agents) -> None:
    """The whole guard runs, and the command after it."""
    runner = agent("agent-runner")

    assert runner.set("agents:jobs:1:state", "x") is True
    assert runner.get("agents:jobs:1:state") == b"x"


@pytest.mark.parametrize(
    ("identity", "command", "error"),
    [
        ("agent-runner", ("GET", "agents:context:1"), keyleash.KeyNotGrantedError),
        ("agent-runner", ("GET", "agents:jobs:1:lock"), keyleash.KeyDeniedError),
        ("agent-reader", ("SET", "agents:context:1", "x"), keyleash.ClassNotGrantedError),
        ("human-admin", ("FLUSHALL",), keyleash.CommandRefusedError),
        ("human-admin", ("DEL", "keyleash:policy"), keyleash.KeyDeniedError),
    ],
)
def test_denial_is_that_of_a_real_server(
    agent: Agents, identity: str, command: tuple[str, ...], error: type[keyleash.LeashError]
) -> None:
    """The exception has its type, and nothing ran."""
    with pytest.raises(error):
        agent(identity).execute_command(*command)


def test_burst_is_counted_exactly(agent: Agents) -> None:
    """Packed states work in the fake's Lua as in the server's."""
    runner = agent("agent-runner")
    passed, began = 0, time.monotonic()
    with contextlib.suppress(keyleash.RateLimitedError):
        while runner.set("agents:jobs:1:state", "x"):
            passed += 1
    since_s = time.monotonic() - began
    assert 60 <= passed <= 61 + 10 * since_s


def test_revoke_and_suspend_take_effect_on_the_next_call(admin, agent: Agents) -> None:  # type: ignore[no-untyped-def]
    """Operators' scripts run in the fake as well."""
    reader, recovery = agent("agent-reader"), agent("agent-recovery")
    revoke(Store(admin), identity="agent-reader")
    freeze(Store(admin), "agent-recovery", reason="x")

    with pytest.raises(keyleash.TokenRevokedError):
        reader.get("agents:context:1")
    with pytest.raises(keyleash.SuspendedError):
        recovery.set("agents:recovery:1", "x")


WAITING: dict[str, tuple[Any, ...]] = {
    "BLPOP": ("q", 0),
    "BRPOP": ("q", 0),
    "BLMOVE": ("q", "other", "LEFT", "LEFT", 0),
    "BRPOPLPUSH": ("q", "other", 0),
    "BLMPOP": (0, 1, "q", "LEFT"),
    "BZPOPMIN": ("z", 0),
    "BZPOPMAX": ("z", 0),
    "BZMPOP": (0, 1, "z", "MIN"),
    "XREAD": ("BLOCK", 0, "STREAMS", "s", 0),
}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("name", WAITING)
def test_blocking_command_waits_in_the_client_and_not_in_the_fake(
    admin: Any, kind: str, name: str
) -> None:
    """Other clients can fill the queue during the wait."""
    server = admin.connection_pool.connection_kwargs["server"]
    token = issue_token(Store(admin), "human-admin").token
    sleeps = 0

    def sleep(_: float) -> None:
        nonlocal sleeps
        sleeps += 1
        if sleeps == 3:
            admin.rpush("q", "x")
            admin.zadd("z", {"x": 1})
            admin.xadd("s", {"f": "x"})

    async def asleep(seconds: float) -> None:
        sleep(seconds)

    async def acall() -> Any:
        pool = fake_async_redis(server).connection_pool
        async with keyleash.asyncio.Redis(connection_pool=pool, token=token) as client:
            slow: Any = client.connection_pool.connection_class
            slow.sleep = staticmethod(asleep)
            return await client.execute_command(name, *WAITING[name])

    if kind == "sync":
        client = keyleash.Redis(connection_pool=admin.connection_pool, token=token)
        slow: Any = client.connection_pool.connection_class
        slow.sleep = staticmethod(sleep)
        got = client.execute_command(name, *WAITING[name])
    else:
        got = asyncio.run(acall())
    assert "x" in repr(got)
    assert sleeps == 3
