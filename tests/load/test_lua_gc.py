"""The Lua garbage collector, which a large load runs in small steps."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from keyleash.store import guards
from keyleash.store.guards import MANY, STEP_KIB, step_lua_gc
from keyleash.store.store import Store
from support.leash import grant, policy
from support.loading import load_policy
from support.servers import RealServer

GARBAGE = "for i = 1, 20000 do local t = { i, tostring(i) .. 'garbage' } end"
HELD = "return collectgarbage('count')"


def test_garbage_of_scripts_is_collected_in_small_steps(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next SCRIPT LOAD sweeps it at once."""
    # A busy machine makes few steps in the time that a load has for them.
    monkeypatch.setattr(guards, "LONGEST_S", 60)
    admin = server.client()
    step_lua_gc(Store(admin))
    before_kib = admin.eval(HELD, 0)
    admin.eval(f"collectgarbage('stop') {GARBAGE} collectgarbage('restart')", 0)
    littered_kib = admin.eval(HELD, 0)
    assert littered_kib > before_kib + 1000

    step_lua_gc(Store(admin))

    assert admin.eval(HELD, 0) < before_kib + (littered_kib - before_kib) / 4


class Busy:
    """A server whose collector never completes a cycle."""

    held_kib = 1000

    def __init__(self) -> None:
        self.steps = 0

    def eval(self, *_: Any) -> int:
        self.steps += 1
        return self.held_kib


def test_collection_ends_after_steps_for_one_cycle() -> None:
    """The load continues in any case."""
    server = Busy()

    step_lua_gc(Store(server))

    assert server.steps == server.held_kib // STEP_KIB + 1


def test_collection_on_a_slow_connection_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is a round trip."""
    monkeypatch.setattr(guards, "LONGEST_S", -1)
    server = Busy()

    step_lua_gc(Store(server))

    assert server.steps == 1


@pytest.mark.parametrize(("identities", "collects"), [(MANY // 2 - 1, False), (MANY // 2, True)])
def test_load_of_many_scripts_runs_the_collector(
    server: RealServer, monkeypatch: pytest.MonkeyPatch, identities: int, collects: bool
) -> None:
    """A small load leaves little garbage, and stays short."""
    monkeypatch.setattr(guards, "LONGEST_S", 60)
    admin = server.client()
    identity = {"grants": [grant("read", keys="k:*")]}
    document = policy(**{f"agent-{n}": identity for n in range(identities)})
    admin.config_resetstat()

    load_policy(Store(admin), document)

    calls = admin.info("commandstats").get("cmdstat_eval", {"calls": 0})["calls"]
    # How many steps a cycle has depends on the server's garbage.
    assert (calls > 0) == collects


def test_load_that_changes_few_identities_does_not_run_the_collector(server: RealServer) -> None:
    """A whole cycle would take longer than the load."""
    admin = server.client()
    identity = {"grants": [grant("read", keys="k:*")]}
    many = {f"agent-{n}": identity for n in range(MANY)}
    load_policy(Store(admin), policy(**many))
    admin.config_resetstat()

    load_policy(
        Store(admin), policy(**{**many, "agent-0": {"grants": [grant("read", keys="other:*")]}})
    )

    assert "cmdstat_eval" not in admin.info("commandstats")


def test_load_continues_after_a_script_flush(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector step itself is a script, and must not fail a load."""
    admin = server.client()
    step, flushes, other = admin.eval, [], server.client()

    def after_a_flush(*words: Any) -> Any:
        flushes.append(other.script_flush())
        return step(*words)

    monkeypatch.setattr(admin, "eval", after_a_flush)
    identity = {"grants": [grant("read", keys="k:*")]}

    assert load_policy(
        Store(admin), policy(**{f"agent-{n}": identity for n in range(MANY)})
    ).changed
    assert flushes


def test_error_of_the_collector_is_ignored(server: RealServer) -> None:
    """The load itself reports errors of the server."""
    admin = server.client()
    admin.acl_setuser("loader", enabled=True, nopass=True, categories=["+@all"], commands=["-eval"])
    loader = server.client(username="loader", password="any")
    try:
        with pytest.raises(redis.exceptions.NoPermissionError):
            loader.eval(HELD, 0)
        step_lua_gc(Store(loader))
    finally:
        admin.acl_deluser("loader")
