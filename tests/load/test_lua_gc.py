"""The collector of the server's Lua, which a large load moves on by small steps."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from keyleash.operator import load_policy
from keyleash.operator.load import staging
from keyleash.operator.load.staging import MANY, STEP_KIB, step_lua_gc
from support.leash import grant, policy
from support.servers import RealServer

GARBAGE = "for i = 1, 20000 do local t = { i, tostring(i) .. 'garbage' } end"
HELD = "return collectgarbage('count')"


def test_what_scripts_left_behind_is_collected_by_small_steps(server: RealServer) -> None:
    """Else whoever loads the next script pays for it in one go."""
    admin = server.client()
    step_lua_gc(admin)
    before_kib = admin.eval(HELD, 0)
    admin.eval(f"collectgarbage('stop') {GARBAGE} collectgarbage('restart')", 0)
    littered_kib = admin.eval(HELD, 0)
    assert littered_kib > before_kib + 1000

    step_lua_gc(admin)

    assert admin.eval(HELD, 0) < before_kib + (littered_kib - before_kib) / 4


class Busy:
    """A server that is never seen to come around."""

    held_kib = 1000

    def __init__(self) -> None:
        self.steps = 0

    def eval(self, *_: Any) -> int:
        self.steps += 1
        return self.held_kib


def test_collector_that_is_never_seen_to_come_around_is_left_after_one_round() -> None:
    """Whatever the server does about it, a load goes on."""
    server = Busy()

    step_lua_gc(server)

    assert server.steps == server.held_kib // STEP_KIB + 1


def test_collector_of_a_server_far_away_is_left_when_the_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every step is a round trip, and a load is not to wait for thousands."""
    monkeypatch.setattr(staging, "LONGEST_S", -1)
    server = Busy()

    step_lua_gc(server)

    assert server.steps == 1


@pytest.mark.parametrize(("identities", "collects"), [(MANY // 2 - 1, False), (MANY // 2, True)])
def test_load_moves_the_collector_on_if_it_loads_many_scripts(
    server: RealServer, identities: int, collects: bool
) -> None:
    """Where there are few there is little to sweep, and a small load stays short."""
    admin = server.client()
    one = {"grants": [grant("read", keys="k:*")]}
    document = policy(**{f"agent-{n}": one for n in range(identities)})
    admin.config_resetstat()

    load_policy(admin, document)

    calls = admin.info("commandstats").get("cmdstat_eval", {"calls": 0})["calls"]
    assert (calls > 10) == collects


def test_load_that_changes_few_of_many_identities_leaves_the_collector_alone(
    server: RealServer,
) -> None:
    """Going through all that is loaded would take longer than the load."""
    admin = server.client()
    one = {"grants": [grant("read", keys="k:*")]}
    many = {f"agent-{n}": one for n in range(MANY)}
    load_policy(admin, policy(**many))
    admin.config_resetstat()

    load_policy(admin, policy(**{**many, "agent-0": {"grants": [grant("read", keys="other:*")]}}))

    assert "cmdstat_eval" not in admin.info("commandstats")


def test_load_goes_on_where_scripts_are_flushed_meanwhile(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector is moved by scripts, and is no reason for a load to fail."""
    admin = server.client()
    step, flushes, other = admin.eval, [], server.client()

    def after_a_flush(*words: Any) -> Any:
        flushes.append(other.script_flush())
        return step(*words)

    monkeypatch.setattr(admin, "eval", after_a_flush)
    one = {"grants": [grant("read", keys="k:*")]}

    assert load_policy(admin, policy(**{f"agent-{n}": one for n in range(MANY)})).changed
    assert flushes


def test_collector_that_may_not_be_moved_is_left_alone(server: RealServer) -> None:
    """Whatever is wrong with the server, the load itself says it better."""
    admin = server.client()
    admin.acl_setuser("loader", enabled=True, nopass=True, categories=["+@all"], commands=["-eval"])
    loader = server.client(username="loader", password="any")
    try:
        with pytest.raises(redis.exceptions.NoPermissionError):
            loader.eval(HELD, 0)
        step_lua_gc(loader)
    finally:
        admin.acl_deluser("loader")
