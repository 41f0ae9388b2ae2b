"""What one agent can do to the server that all of them use."""

from __future__ import annotations

from functools import partial
from typing import Any

from redteam.attempt import Outcome, attempt
from redteam.stage import OTHER, OWN, WORKER, Stage

entered = partial(attempt, "The server that all agents use")
ACL, GUARD, NOTHING, POSSIBLE = Outcome.ACL, Outcome.GUARD, Outcome.NOTHING, Outcome.POSSIBLE
guarded = partial(entered, by_guard=True, cooperative=GUARD, fenced=GUARD, sealed=GUARD)


@guarded()
def restore_through_the_guard(stage: Stage) -> bool:
    """have the server parse a serialized value of its own making: RESTORE, through its guard"""
    dumped = stage.operator.dump(stage.key(OWN)) or b""
    for name in ("RESTORE", "RESTORE-ASKING"):
        stage.intruder.call(name, "jobs:new", "0", dumped)
        stage.intruder.batch((name, "jobs:new", "0", dumped))
    return bool(stage.operator.exists(stage.key("jobs:new")))


@entered(cooperative=POSSIBLE, fenced=ACL, sealed=ACL)
def restore_directly(stage: Stage) -> None:
    """the same without its guard"""
    dumped = stage.operator.dump(stage.key(OWN)) or b""
    stage.intruder.say("RESTORE", "jobs:new", "0", dumped)
    stage.intruder.say("RESTORE-ASKING", "jobs:new", "0", dumped)


@entered(by_guard=True, cooperative=NOTHING, fenced=NOTHING, sealed=NOTHING)
def flood_of_denials(stage: Stage) -> bool:
    """push a denial out of the record by a flood of others: made-up commands, keys and tokens"""
    stage.intruder.call("GET", OTHER)
    first: Any = stage.operator.xrange(stage.keyspace.denied(WORKER))
    for number in range(30):
        made_up = [(f"M{number}X{index}", f"k{index}") for index in range(400)]
        stage.intruder.batch(*made_up, mode="each")
        stage.intruder.call("GET", OTHER, token=f"kl_worker_{number:043}")
    left: Any = stage.operator.xrange(stage.keyspace.denied(WORKER))
    return first[0] not in left or len(left) > 200
