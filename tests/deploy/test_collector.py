"""The collector of the server's Lua, which a large load moves on by small steps."""

from __future__ import annotations

from typing import Any

import pytest

from keyleash.deploy import load_policy
from keyleash.deploy.collector import STEP_KIB, come_around
from keyleash.deploy.standing import BATCH
from support.leash import grant, policy
from support.servers import RealServer

GARBAGE = "for i = 1, 20000 do local t = { i, tostring(i) .. 'garbage' } end"
HELD = "return collectgarbage('count')"


def test_what_scripts_left_behind_is_collected_by_small_steps(server: RealServer) -> None:
    """Else whoever loads the next script pays for it in one go."""
    admin = server.client()
    come_around(admin)
    before_kib = admin.eval(HELD, 0)
    admin.eval(f"collectgarbage('stop') {GARBAGE} collectgarbage('restart')", 0)
    littered_kib = admin.eval(HELD, 0)
    assert littered_kib > before_kib + 1000

    come_around(admin)

    assert admin.eval(HELD, 0) < before_kib + (littered_kib - before_kib) / 4


def test_collector_that_is_never_seen_to_come_around_is_left_after_one_round() -> None:
    """Whatever the server does about it, a load goes on."""
    held_kib, steps = 1000, []

    class Busy:
        def script_load(self, _: str) -> str:
            return "digest"

        def evalsha(self, *words: Any) -> int:
            steps.append(words)
            return held_kib

    come_around(Busy())

    assert len(steps) == held_kib // STEP_KIB + 1


@pytest.mark.parametrize(("identities", "collects"), [(BATCH - 1, False), (BATCH, True)])
def test_load_moves_the_collector_on_if_it_loads_many_scripts(
    server: RealServer, identities: int, collects: bool
) -> None:
    """Where there are few there is little to sweep, and a small load stays short."""
    admin = server.client()
    one = {"grants": [grant("read", keys="k:*")]}
    document = policy(**{f"agent-{n}": one for n in range(identities)})
    admin.config_resetstat()

    load_policy(admin, document)

    calls = admin.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert (calls > 10) == collects
