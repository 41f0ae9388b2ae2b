"""Counters, tokens and trails."""

from __future__ import annotations

import math
import struct
from functools import partial

import keyleash
from keyleash.audit.read import Query
from keyleash.audit.undo.key_plans import plan_undo
from keyleash.policy.patterns import parse_pattern
from keyleash.store.store import Store
from keyleash.store.token import KEEP_AFTER_EXPIRY_MS, RECORD_FORMAT, TAIL_HEADER, token_digest
from proofs.redteam.attempt import attempt
from proofs.redteam.intruder import flat
from proofs.redteam.stage import (
    CLERK,
    NAMES,
    NOBODYS,
    OTHER,
    OTHER_SECRET,
    OWN,
    OWN_SECRET,
    WORKER,
    Stage,
)

entered = partial(attempt, "Counters, tokens and audit streams")
DAY_MS = 86_400_000


@entered()
def reset_own_counters(stage: Stage) -> None:
    """reset its own counters"""
    stage.given("SETRANGE", NAMES.state(WORKER), "24", b"\1" * 8)
    stage.intruder.say("SETRANGE", NAMES.state(WORKER), 24, b"\0" * 8)


@entered()
def delete_own_state(stage: Stage) -> None:
    """delete or expire its own state or audit stream"""
    for key in (NAMES.state(WORKER), NAMES.audit(WORKER), NAMES.denied(WORKER)):
        stage.intruder.say("DEL", key)
        stage.intruder.say("UNLINK", key)
        stage.intruder.say("PEXPIRE", key, "1")
        stage.intruder.say("RENAME", key, "jobs:x")


@entered()
def forge_own_event(stage: Stage) -> None:
    """append a forged event to its own audit stream"""
    stage.intruder.say("XADD", NAMES.audit(WORKER), "*", "SET", "forged")


@entered(by_guard=True)
def forge_event_of_anothers_key(stage: Stage) -> bool:
    """make undo trust a forged event about another identity's key"""
    pool = stage.operator.connection_pool
    keyleash.Redis(connection_pool=pool, token=stage.tokens[CLERK]).set(OTHER, "changed")
    stage.given("PING")
    event = {"seq": "1", "token": "t", "policy": "p 1,1w", "correlation": "c", "SET": OTHER}
    event |= {"before": OTHER, "expires": "-1", "value": "forged"}
    words = [word for pair in event.items() for word in pair]
    stage.intruder.say("XADD", NAMES.audit(WORKER), "*", *words)
    (undone,) = plan_undo(Store(stage.operator), Query(pattern=parse_pattern(OTHER))).keys
    return WORKER in repr(undone)


@entered()
def trim_own_trail(stage: Stage) -> None:
    """trim its own audit stream"""
    stage.given("XADD", NAMES.audit(WORKER), "*", "SET", "an event")
    stage.intruder.say("XTRIM", NAMES.audit(WORKER), "MAXLEN", "0")


@entered()
def read_own_trail(stage: Stage) -> bool:
    """read its own audit stream"""
    stage.given("XADD", NAMES.audit(WORKER), "*", "SET", "an event")
    for key in (NAMES.audit(WORKER), NAMES.denied(WORKER)):
        stage.intruder.say("XRANGE", key, "-", "+")
    return not all(stage.intruder.errors)


@entered()
def others_counters(stage: Stage) -> None:
    """change counters, tokens and audit streams of another identity"""
    say = stage.intruder.say
    say("SETRANGE", NAMES.state(CLERK), 8, b"\0\0\0\0\0\0\xf0\x3f")
    say("XTRIM", NAMES.audit(CLERK), "MAXLEN", "0")
    say("XADD", NAMES.audit(CLERK), "*", "SET", "forged")
    say("SETRANGE", NAMES.token(CLERK, token_digest(stage.tokens[CLERK])), 0, "x")
    say("HSET", NAMES.repeats(CLERK), "x", "1")


@entered()
def read_control(stage: Stage) -> bool:
    """read the policy, token records and the control stream"""
    for call in (("HGETALL", NAMES.policy), ("HGETALL", NAMES.tokens(WORKER)),
                 ("HGETALL", NAMES.guard(CLERK)),
                 ("XRANGE", NAMES.control, "-", "+"), ("GET", NAMES.state(CLERK))):  # fmt: skip
        stage.intruder.say(*call)
    return not all(stage.intruder.errors)


@entered()
def prolong_own_token(stage: Stage) -> None:
    """extend the lifetime of its own token"""
    name = NAMES.token(WORKER, token_digest(stage.tokens[WORKER]))
    stage.intruder.say("SETRANGE", name, 0, b"\0\0\0\0\0\0\x60\x43")


def make_token(stage: Stage, identity: str, key: str) -> bool:
    """Write the record of a token, and call a guard with it."""
    say, works = stage.intruder.say, False
    tomorrow_ms = int(stage.operator.time()[0]) * 1000 + DAY_MS
    name = NAMES.token(identity, token_digest("kl_x"))
    kept_ms = tomorrow_ms + KEEP_AFTER_EXPIRY_MS
    for expires_us in (tomorrow_ms * 1000, math.inf, math.nan):
        record = struct.pack(RECORD_FORMAT, expires_us, 0, 0, b"made-by-self")
        say("SETRANGE", name, 0, record)
        say("SET", name, record, "PXAT", kept_ms)
        say("RESTORE", name, "0", record)
        say("PEXPIREAT", name, kept_ms)
        reply = stage.intruder.call("GET", key, token="kl_x", digest=stage.digest(identity))
        works = works or reply in (OWN_SECRET.encode(), OTHER_SECRET.encode())
    stage.operator.delete(name)
    return works


@entered(by_guard=True)
def make_own_token(stage: Stage) -> bool:
    """create a token of its own identity, if that has `delegate`, and call a guard with it"""
    return make_token(stage, WORKER, OWN)


@entered(by_guard=True)
def make_token_of_another(stage: Stage) -> bool:
    """create a token of another identity, and call a guard with it"""
    return make_token(stage, CLERK, OTHER)


@entered(by_guard=True)
def forge_child(stage: Stage) -> bool:
    """forge the record of a child token, to reach what its identity may not"""
    say, digest = stage.intruder.say, token_digest(stage.tokens[WORKER])
    now_ms = int(stage.operator.time()[0]) * 1000
    other = token_digest(stage.tokens[CLERK])
    name, works = NAMES.token(WORKER, token_digest("kl_x")), False
    tail = struct.pack(TAIL_HEADER, 63, 0, 0, 0, 36) + b"::"
    for chain in (
        b"",
        b"a" * 12 + digest.encode() + b"\1",
        b"a" * 12 + other.encode() + b"\1",
        b"\xff",
        b"\0",
        b":" * 52 + b"\1",
        (b"a" * 12 + digest.encode()) * 8 + b"\x08",
    ):
        for flags in (6, 2, 14, 255):
            record = struct.pack(RECORD_FORMAT, (now_ms + DAY_MS) * 1000, 0, flags, b"made-by-self")
            record += tail + chain
            say("SET", name, record, "PXAT", now_ms + DAY_MS + KEEP_AFTER_EXPIRY_MS)
            for key in (OTHER, NOBODYS, "jobs:locked"):
                reply = stage.intruder.call("GET", key, token="kl_x")
                works = works or not flat(reply).startswith(b"LEASH ")
    stage.operator.delete(name)
    return works


@entered()
def hide_tokens(stage: Stage) -> None:
    """delete, change or hide entries of the tokens that operators list"""
    say = stage.intruder.say
    for key in (NAMES.tokens(WORKER), NAMES.delegated(CLERK), NAMES.control):
        say("HSET", key, "x", "{}")
        say("HDEL", key, "x")
        say("ZADD", key, "1", "x")
        say("XADD", key, "*", "event", "delegate")
        say("DEL", key)


@entered()
def swap_guard_record(stage: Stage) -> None:
    """put another script into the public guard record"""
    for identity in (WORKER, CLERK):
        stage.intruder.say("HSET", NAMES.guard(identity), "digest", "0" * 40)
        stage.intruder.say("DEL", NAMES.guard(identity))
