"""`explain` of what is no plain call of a guard, compared with a guarded connection."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import keyleash
from keyleash.commands.locks import EXTEND, RELEASE
from keyleash.evaluate.trace import Decision, LimitStep
from keyleash.store.keyspace import script_digest
from support.leash import Leash
from support.scripted import scripted
from support.servers import RealServer

TEXT = "return redis.call('INCR', KEYS[1])"
DIGEST = script_digest(TEXT)
GRANT = {"allow": ["scan"], "keys": ["app:*"]}
CHANNELS = {"allow": ["subscribe"], "channels": ["app:*"]}

CALLS: dict[str, tuple[Any, ...]] = {
    "approved text": ("EVAL", TEXT, 1, "app:n"),
    "approved digest": ("EVALSHA", DIGEST.upper(), 1, "app:n"),
    "another key": ("EVALSHA", DIGEST, 1, "other"),
    "another text": ("EVAL", "return 1", 0),
    "too few keys": ("EVALSHA", DIGEST, 2, "app:n"),
    "release": ("EVALSHA", RELEASE, 1, "app:l", "x"),
    "release of another key": ("EVALSHA", RELEASE, 1, "other", "x"),
    "extend": ("EVALSHA", EXTEND, 1, "app:l", "x", 5, 0),
    "load": ("SCRIPT", "LOAD", TEXT),
    "load of another text": ("SCRIPT", "LOAD", "return 1"),
    "exists": ("SCRIPT", "EXISTS", DIGEST),
    "flush": ("SCRIPT", "FLUSH"),
    "watch": ("WATCH", "app:n"),
    "watch of another key": ("WATCH", "app:n", "other"),
    "multi": ("MULTI",),
    "keys": ("KEYS", "app:*"),
    "all keys": ("KEYS", "*"),
    "info": ("INFO", "server"),
    "name": ("CLIENT", "SETNAME", "x"),
    "clients": ("CLIENT", "LIST"),
    "size": ("DBSIZE",),
    "deletion of all": ("FLUSHDB",),
    "connection": ("CLIENT", "INFO"),
    "eviction": ("CLIENT", "NO-EVICT", "ON"),
    "plain": ("GET", "app:n"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_explained_decision_is_that_of_a_connection(
    embedded: RealServer, call: tuple[Any, ...]
) -> None:
    """Allowed, or denied with the same code; and counted by the same limits."""
    leash = Leash(embedded)
    limits: dict[str, Any] = {"budget": {"requests": "9/day", "reads": "9/day", "writes": "9/day"}}
    client = scripted(leash, TEXT, GRANT, **limits)
    operator = keyleash.Operator(leash.admin, actor="ops")
    explained = operator.explain("one", *map(str, call))

    code = None
    with client.pipeline() as pipe:
        try:
            pipe.immediate_execute_command(*call)
        except keyleash.LeashError as denial:
            code = denial.code
        except redis.ResponseError:
            pass
    assert explained.decision.code == code
    if explained.allowed and call[0].startswith("EVAL") and call[1] in (TEXT, DIGEST.upper()):
        charged = {*left_in(explained.decision)}
        assert charged >= {"budget.requests", "budget.writes"}
        assert {name for name, left in left_of(operator).items() if left == 8} == charged


def left_of(operator: keyleash.Operator) -> dict[str, int]:
    """Return how many calls each limit allows."""
    return left_in(operator.explain("one", "GETSET", "app:x", "1").decision)


def left_in(decision: Decision) -> dict[str, int]:
    """Return how many calls each limit that counts a call allows."""
    return {step.limit.name: step.left for step in decision.trace if isinstance(step, LimitStep)}


@pytest.mark.parametrize(("channel", "is_allowed"), [("app:b", True), ("other", False)])
def test_subscription_to_several_channels_is_explained(
    embedded: RealServer, channel: str, is_allowed: bool
) -> None:
    leash = Leash(embedded)
    scripted(leash, TEXT, CHANNELS)
    explained = keyleash.Operator(leash.admin, actor="ops").explain(
        "one", "SUBSCRIBE", "app:a", channel
    )
    assert explained.allowed is is_allowed


def test_script_is_explained_by_its_name(embedded: RealServer) -> None:
    """With what is not judged."""
    leash = Leash(embedded)
    scripted(leash, TEXT)
    operator = keyleash.Operator(leash.admin, actor="ops")
    allowed, denied = (operator.explain("one", "SCRIPT", "s", key) for key in ("app:n", "other"))
    assert f"script    {DIGEST}: approved as s" in str(allowed)
    assert "its commands are not judged here" in str(allowed)
    assert (allowed.allowed, denied.decision.code) == (True, "KEY_NOT_GRANTED")
    assert operator.explain("one", "SCRIPT", "other").decision.code == "COMMAND_REFUSED"
