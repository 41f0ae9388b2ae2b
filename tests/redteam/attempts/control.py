"""Counters, tokens and trails."""

from __future__ import annotations

import math
import struct
from functools import partial

import keyleash
from keyleash.audit.undo import UndoSelection, plan_undo
from keyleash.policy.patterns import parse_pattern
from keyleash.store.keyspace import Keyspace
from keyleash.store.store import Store
from keyleash.store.token import KEEP_AFTER_EXPIRY_MS, RECORD_FORMAT, token_digest
from redteam.attempt import Outcome, attempt
from redteam.stage import CLERK, OTHER, OTHER_SECRET, OWN, OWN_SECRET, WORKER, Stage

entered = partial(attempt, "Counters, tokens and audit streams")
ACL, NOTHING, POSSIBLE = Outcome.ACL, Outcome.NOTHING, Outcome.POSSIBLE
DAY_MS = 86_400_000
PUBLIC = Keyspace()
"""The only names that an agent can know; in a sealed server nothing has them."""


@entered(cooperative=POSSIBLE, fenced=POSSIBLE, sealed=ACL)
def reset_own_counters(stage: Stage) -> None:
    """reset its own counters"""
    stage.given("SETRANGE", stage.keyspace.state(WORKER), "24", b"\1" * 8)
    stage.intruder.say("SETRANGE", PUBLIC.state(WORKER), 24, b"\0" * 8)


@entered(cooperative=POSSIBLE, fenced=ACL, sealed=ACL)
def delete_own_state(stage: Stage) -> None:
    """delete or expire its own state or audit stream"""
    for key in (PUBLIC.state(WORKER), PUBLIC.audit(WORKER), PUBLIC.denied(WORKER)):
        stage.intruder.say("DEL", key)
        stage.intruder.say("UNLINK", key)
        stage.intruder.say("PEXPIRE", key, "1")
        stage.intruder.say("RENAME", key, "jobs:x")


@entered(cooperative=POSSIBLE, fenced=POSSIBLE, sealed=ACL)
def forge_own_event(stage: Stage) -> None:
    """append a forged event to its own audit stream"""
    stage.intruder.say("XADD", PUBLIC.audit(WORKER), "*", "SET", "forged")


@entered(cooperative=NOTHING, fenced=NOTHING, sealed=ACL, by_guard=True)
def forge_event_of_anothers_key(stage: Stage) -> bool:
    """make undo trust a forged event about another identity's key"""
    pool = stage.operator.connection_pool
    keyleash.Redis(connection_pool=pool, token=stage.tokens[CLERK]).set(OTHER, "changed")
    stage.given("PING")
    event = {"seq": "1", "token": "t", "policy": "p 1,1w", "correlation": "c", "SET": OTHER}
    event |= {"before": OTHER, "expires": "-1", "value": "forged"}
    words = [word for pair in event.items() for word in pair]
    stage.intruder.say("XADD", PUBLIC.audit(WORKER), "*", *words)
    (undone,) = plan_undo(
        Store.open(stage.operator), UndoSelection(pattern=parse_pattern(OTHER))
    ).keys
    return WORKER in repr(undone)


@entered(cooperative=POSSIBLE, fenced=POSSIBLE, sealed=ACL)
def trim_own_trail(stage: Stage) -> None:
    """trim its own audit stream"""
    stage.given("XADD", stage.keyspace.audit(WORKER), "*", "SET", "an event")
    stage.intruder.say("XTRIM", PUBLIC.audit(WORKER), "MAXLEN", "0")


@entered(cooperative=POSSIBLE, fenced=ACL, sealed=ACL)
def read_own_trail(stage: Stage) -> bool:
    """read its own audit stream"""
    stage.given("XADD", stage.keyspace.audit(WORKER), "*", "SET", "an event")
    for key in (PUBLIC.audit(WORKER), PUBLIC.denied(WORKER)):
        stage.intruder.say("XRANGE", key, "-", "+")
    return not all(stage.intruder.errors)


@entered(cooperative=POSSIBLE, fenced=ACL, sealed=ACL)
def others_counters(stage: Stage) -> None:
    """change counters, tokens and audit streams of another identity"""
    say = stage.intruder.say
    say("SETRANGE", PUBLIC.state(CLERK), 8, b"\0\0\0\0\0\0\xf0\x3f")
    say("XTRIM", PUBLIC.audit(CLERK), "MAXLEN", "0")
    say("XADD", PUBLIC.audit(CLERK), "*", "SET", "forged")
    say("SETRANGE", PUBLIC.token(CLERK, token_digest(stage.tokens[CLERK])), 0, "x")
    say("HSET", PUBLIC.repeats(CLERK), "x", "1")


@entered(cooperative=POSSIBLE, fenced=ACL, sealed=ACL)
def read_control(stage: Stage) -> bool:
    """read the policy, token records, the control stream, the record of the prefixes"""
    for call in (("HGETALL", PUBLIC.policy), ("HGETALL", PUBLIC.tokens(WORKER)),
                 ("HGETALL", PUBLIC.sealed), ("HGETALL", PUBLIC.guard(CLERK)),
                 ("XRANGE", PUBLIC.control, "-", "+"), ("GET", PUBLIC.state(CLERK))):  # fmt: skip
        stage.intruder.say(*call)
    return not all(stage.intruder.errors)


@entered(cooperative=POSSIBLE, fenced=POSSIBLE, sealed=ACL)
def prolong_own_token(stage: Stage) -> None:
    """extend the lifetime of its own token"""
    name = PUBLIC.token(WORKER, token_digest(stage.tokens[WORKER]))
    stage.intruder.say("SETRANGE", name, 0, b"\0\0\0\0\0\0\x60\x43")


@entered(cooperative=POSSIBLE, fenced=NOTHING, sealed=Outcome.GUARD, by_guard=True)
def make_token(stage: Stage) -> bool:
    """create a token, for itself or another identity, and call a guard with it"""
    say, works = stage.intruder.say, False
    tomorrow_ms = int(stage.operator.time()[0]) * 1000 + DAY_MS
    for identity, key in ((WORKER, OWN), (CLERK, OTHER)):
        name = PUBLIC.token(identity, token_digest("kl_x"))
        for expires_us in (tomorrow_ms * 1000, math.inf, math.nan):
            record = struct.pack(RECORD_FORMAT, expires_us, 0, 0, b"made-by-self")
            say("SETRANGE", name, 0, record)
            say("SET", name, record)
            say("RESTORE", name, "0", record)
            say("PEXPIREAT", name, tomorrow_ms + KEEP_AFTER_EXPIRY_MS)
            reply = stage.intruder.call("GET", key, token="kl_x", digest=stage.digest(identity))
            works = works or reply in (OWN_SECRET.encode(), OTHER_SECRET.encode())
        stage.operator.delete(name)
    return works


@entered(cooperative=POSSIBLE, fenced=ACL, sealed=ACL)
def swap_guard_record(stage: Stage) -> None:
    """put another script into the public guard record"""
    for identity in (WORKER, CLERK):
        stage.intruder.say("HSET", PUBLIC.guard(identity), "digest", "0" * 40)
        stage.intruder.say("DEL", PUBLIC.guard(identity))
