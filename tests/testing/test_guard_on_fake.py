"""Guards run in process: the example policy on the fake, without any server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

import keyleash
from keyleash.compiler.templates import examples_root
from keyleash.deploy import load_policy, set_suspended
from keyleash.testing import fake_redis, fake_server
from keyleash.tokens import issue_token, revoke_tokens

Agents = Callable[[str], keyleash.Redis]


@pytest.fixture
def admin():  # type: ignore[no-untyped-def]
    client = fake_redis(fake_server())
    load_policy(client, (examples_root() / "agents.yaml").read_text())
    return client


@pytest.fixture
def agent(admin) -> Agents:  # type: ignore[no-untyped-def]
    def made(identity: str) -> keyleash.Redis:
        token = issue_token(admin, identity).token
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
def test_refusal_is_that_of_a_real_server(
    agent: Agents, identity: str, command: tuple[str, ...], error: type[keyleash.LeashError]
) -> None:
    """Typed, and with nothing done."""
    with pytest.raises(error):
        agent(identity).execute_command(*command)


def test_burst_is_counted_exactly(agent: Agents) -> None:
    """Packed states work in the fake's Lua as in the server's."""
    runner = agent("agent-runner")
    passed = 0
    with contextlib.suppress(keyleash.RateLimitedError):
        while runner.set("agents:jobs:1:state", "x"):
            passed += 1
    assert 60 <= passed < 100


def test_revoke_and_suspend_bind_the_next_call(admin, agent: Agents) -> None:  # type: ignore[no-untyped-def]
    """Operators' scripts run in the fake as well."""
    reader, recovery = agent("agent-reader"), agent("agent-recovery")
    revoke_tokens(admin, identity="agent-reader")
    set_suspended(admin, "agent-recovery", True)

    with pytest.raises(keyleash.TokenRevokedError):
        reader.get("agents:context:1")
    with pytest.raises(keyleash.SuspendedError):
        recovery.set("agents:recovery:1", "x")
