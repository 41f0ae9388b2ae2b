"""Attacks of one agent on the server that all agents share."""

from __future__ import annotations

import math
import struct
from functools import partial
from typing import Any

from proofs.redteam.attempt import Outcome, attempt
from proofs.redteam.stage import NAMES, OTHER, OWN, READS, WORKER, Stage

entered = partial(attempt, "The server that all agents use")
GUARD, NOTHING = Outcome.GUARD, Outcome.NOTHING
guarded = partial(entered, by_guard=True, direct=GUARD)
MIB = 1024 * 1024
MINUTE_US = 60_000_000.0
BEYOND = 65 * MIB
"""A length that no grant of the stage allows a string."""


def texts(stage: Stage, length: int) -> tuple[str, str]:
    """Two keys of the intruder's with strings that have nothing in common."""
    for name, letter in (("jobs:a", b"a"), ("jobs:b", b"b")):
        stage.given("SET", name, letter * length)
    return "jobs:a", "jobs:b"


@guarded()
def restore_through_the_guard(stage: Stage) -> bool:
    """make the server parse a crafted payload: RESTORE, through the guard"""
    dumped = stage.operator.dump(OWN) or b""
    for name in ("RESTORE", "RESTORE-ASKING"):
        stage.intruder.call(name, "jobs:new", "0", dumped)
        stage.intruder.batch((name, "jobs:new", "0", dumped))
    return bool(stage.operator.exists("jobs:new"))


@entered()
def restore_directly(stage: Stage) -> None:
    """the same without the guard"""
    dumped = stage.operator.dump(OWN) or b""
    stage.intruder.say("RESTORE", "jobs:new", "0", dumped)
    stage.intruder.say("RESTORE-ASKING", "jobs:new", "0", dumped)


@guarded()
def much_work(stage: Stage) -> None:
    """block the server with one call: LCS of long strings, a huge COUNT, a large batch"""
    pair = texts(stage, 11_000)
    stage.given("SADD", "jobs:set", "x")
    stage.intruder.call("LCS", *pair, keys=pair)
    stage.intruder.call("SRANDMEMBER", "jobs:set", "-1000000")
    texts(stage, 2_000)
    stage.intruder.batch(*[("LCS", *pair)] * 12, keys_each=2)


@entered(gateway=NOTHING)
def much_work_directly(stage: Stage) -> bool:
    """the same without the guard"""
    stage.intruder.say("LCS", *texts(stage, 2_000))
    return stage.answered()


@guarded()
def long_values(stage: Stage) -> bool:
    """use much memory with few short calls: SETRANGE, SETBIT, BITFIELD, BITOP, APPEND, COPY"""
    key = "jobs:long"
    call = stage.intruder.call
    call("SETRANGE", "jobs:x", str(BEYOND), "x")
    call("SETBIT", "jobs:x", str(BEYOND * 8), "1")
    call("BITFIELD", "jobs:x", "SET", "u8", str(BEYOND * 8), "1")
    stage.operator.setrange(key, BEYOND, "x")
    call("APPEND", "jobs:long", "x")
    call("COPY", "jobs:long", "jobs:x", keys=["jobs:long", "jobs:x"])
    call("BITOP", "NOT", "jobs:x", "jobs:long", keys=["jobs:x", "jobs:long"])
    stage.operator.delete(key)
    return bool(stage.operator.exists("jobs:x"))


@entered()
def long_values_directly(stage: Stage) -> bool:
    """the same without the guard"""
    stage.intruder.say("SETRANGE", "jobs:x", BEYOND, "x")
    return bool(stage.operator.delete("jobs:x"))


@guarded()
def unread_replies(stage: Stage) -> None:
    """fill the server's memory with the replies of a batch"""
    stage.given("SET", "jobs:a", b"a" * MIB)
    stage.intruder.batch(*[("GET", "jobs:a")] * 100)


@entered(by_guard=True, direct=NOTHING)
def flood_of_denials(stage: Stage) -> bool:
    """evict a recorded denial by many others with made-up commands, keys and tokens"""
    stage.intruder.call("GET", OTHER)
    first: Any = stage.operator.xrange(NAMES.denied(WORKER))
    for number in range(30):
        made_up = [(f"M{number}X{index}", f"k{index}") for index in range(400)]
        stage.intruder.batch(*made_up, mode="each")
        stage.intruder.call("GET", OTHER, token=f"kl_worker_{number:043}")
    left: Any = stage.operator.xrange(NAMES.denied(WORKER))
    return first[0] not in left or len(left) > 200


@entered(by_guard=True, gateway=NOTHING)
def hostile_counters(stage: Stage) -> bool:
    """make the guard use memory and time by overwriting the counters of the token"""
    stage.intruder.call("GET", OWN)
    prefix = NAMES.limit_prefix(WORKER, READS)
    (counter,) = stage.operator.scan_iter(f"{prefix}*")
    before = stage.operator.info("memory")
    for head, capacity in ((0, 2**24), (5e7, 1000), (math.nan, math.inf), (0, 2**53)):
        record = struct.pack("<3d", head, capacity, MINUTE_US)
        stage.intruder.say("SET", counter, record)
        stage.intruder.say("SETRANGE", counter, 0, record)
        stage.intruder.call("GET", OWN)
    after = stage.operator.info("memory")
    taken = [after[name] - before[name] for name in ("used_memory_peak", "used_memory_lua")]
    return stage.intruder.lost > 0 or max(taken) > 16 * MIB
