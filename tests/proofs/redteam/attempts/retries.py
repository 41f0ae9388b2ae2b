"""Renewal of tokens, and calls with an idempotency id."""

from __future__ import annotations

import struct
from functools import partial
from hashlib import sha1
from typing import Any

import keyleash
from keyleash.store.token import FLAG_REVOKED, FLAG_ROTATED, TokenRecord, token_digest
from proofs.redteam.attempt import Outcome, attempt
from proofs.redteam.intruder import Word, flat
from proofs.redteam.stage import BOUND, CLERK, NAMES, OTHER, OTHER_SECRET, OWN, WORKER, Stage

by_guard = partial(attempt, "Guards and tokens", by_guard=True)
directly = partial(attempt, "Counters, tokens and audit streams")
GUARD, NOTHING = Outcome.GUARD, Outcome.NOTHING
ID = "run-1"
FLAGS_AT = 16


def renew(stage: Stage, *words: Word, token: str) -> None:
    """Ask its own guard to renew a token."""
    head = stage.intruder.head(stage.intruder.record[b"batch_digest"])
    stage.intruder.say(*head, 0, token, "intruder", "renew", *words)


def expiry(stage: Stage, token: str) -> tuple[int, int]:
    """Return when a token of the worker expires by its record, and when the record does."""
    name = NAMES.token(WORKER, token_digest(token))
    packed = stage.operator.get(name)
    assert isinstance(packed, bytes)
    expires_ms = int(stage.operator.execute_command("PEXPIRETIME", name))
    return TokenRecord.unpack(packed).expires_us, expires_ms


def is_renewed(stage: Stage, token: str, *lives: Word) -> bool:
    """Try to renew a token; return whether its expiry has moved."""
    before = expiry(stage, token)
    for life in lives:
        renew(stage, 2, "RENEW", life, token=token)
    return expiry(stage, token) != before


@by_guard(direct=GUARD)
def renew_for_longer(stage: Stage) -> bool:
    """renew its token past `max_ttl`, or with a life that is no number"""
    own = stage.tokens[WORKER]
    for words in ((), (2, "RENEW"), (3, "RENEW", "9", "9"), (2, "renew", "99999999"),
                  (2, "RENEW", "9", 2, "RENEW", "9"), (2, "SET", OWN), ("x", "RENEW", "9"),
                  (-1, "RENEW", "9"), ("2*2", "RENEW", "9", "9")):  # fmt: skip
        renew(stage, *words, token=own)
    lives = (
        "",
        "99999999",
        "9" * 10,
        "9" * 400,
        "-1",
        "1e9",
        "0x7fffffff",
        "nan",
        "inf",
        " 9",
        "9\0",
    )
    return is_renewed(stage, own, *lives)


@by_guard(direct=GUARD)
def renew_what_is_over(stage: Stage) -> bool:
    """renew a revoked or rotated token, a child token, or that of another identity"""
    child, name = "kl_worker_child", NAMES.token(WORKER, token_digest(stage.tokens[BOUND]))
    stage.intruder.delegate(child=token_digest(child), ttl=60)
    # The child has a life of its own, and its set of the parent is no part of the attempt.
    stage.given("PING")
    stage.intruder.forget()
    is_longer = is_renewed(stage, child, "", "99999999")
    for flag in (FLAG_REVOKED, FLAG_ROTATED):
        flags: Any = stage.operator.getrange(name, FLAGS_AT, FLAGS_AT)
        stage.given("SETRANGE", name, str(FLAGS_AT), bytes([flags[0] | flag]))
        is_longer = is_renewed(stage, stage.tokens[BOUND], "", "99999999") or is_longer
        stage.given("SETRANGE", name, str(FLAGS_AT), flags)
    renew(stage, 2, "RENEW", "", token=stage.tokens[CLERK])
    return is_longer


def clerks_id(stage: Stage) -> str:
    """Let the clerk make a call with an id, whose reply is a secret; return the token's id."""
    pool = stage.operator.connection_pool
    clerk = keyleash.Redis(connection_pool=pool, token=stage.tokens[CLERK])
    reply = clerk.execute_command("GETSET", OTHER, OTHER_SECRET, once=ID)
    assert reply == OTHER_SECRET.encode()
    stage.given("PING")
    return clerk.whoami().token_id


def with_id(stage: Stage, id: Word, *command: Word, token: str | None = None) -> bytes:
    """Make a call with an id; return its reply as bytes."""
    keys = list(command[1:2])
    return flat(stage.intruder.call("once", id, *command, keys=keys, token=token))


@by_guard(direct=GUARD)
def reply_to_anothers_id(stage: Stage) -> None:
    """get the stored reply to a call of another identity by its id, words and token"""
    clerks_id(stage)
    for token in (None, stage.tokens[BOUND], stage.tokens[CLERK]):
        with_id(stage, ID, "GETSET", OTHER, OTHER_SECRET, token=token)
        with_id(stage, ID, "GET", OTHER, token=token)
    digest = stage.digest(CLERK)
    words = ("once", ID, "GETSET", OTHER, OTHER_SECRET)
    stage.intruder.call(*words, keys=[OTHER], digest=digest)


@by_guard(direct=NOTHING, gateway=NOTHING)
def conflict_with_anothers_id(stage: Stage) -> bool:
    """find out by a conflict which ids another identity, or another token, has used"""
    clerks_id(stage)
    tokens = (stage.tokens[WORKER], stage.tokens[BOUND])
    commands = (("SET", "runs:7:a", "1"), ("INCR", "runs:7:a"))
    replies = [
        with_id(stage, id, *command, token=token)
        for token, command in zip(tokens, commands, strict=True)
        for id in (ID, "unused")
    ]
    return replies != [b"OK", b"OK", b"2", b"3"]


@by_guard(direct=GUARD)
def malformed_id(stage: Stage) -> None:
    """use an id that is empty, very long, not printable or a token, alone and in a batch"""
    batch = stage.intruder.head(stage.intruder.record[b"batch_digest"])
    tokens = stage.tokens[WORKER], stage.tokens[CLERK], "x" * 150 + stage.tokens[WORKER]
    for id in ("", "x" * 201, "x" * 1_000_000, "a\nb", "a\r\n$1", b"\xff", "\u00e9", "\0", "a\0b",
               *tokens):  # fmt: skip
        with_id(stage, id, "SET", OWN, "x")
        stage.intruder.say(
            *batch, 1, OWN, stage.tokens[WORKER], "c", "once", id, "all", 3, "SET", OWN, "x"
        )
    with_id(stage, ID)
    with_id(stage, ID, "once", ID, "SET", OWN, "x")
    stage.intruder.say(*batch, 0, stage.tokens[WORKER], "c", "once", ID, "renew", 2, "RENEW", "9")
    stage.intruder.say(
        *batch, 0, stage.tokens[WORKER], "c", "once", ID, "delegate", "0" * 40, "", "bind", "run=7"
    )


@by_guard(direct=NOTHING, gateway=NOTHING)
def second_run_of_an_id(stage: Stage) -> bool:
    """run a call twice under one id, or match the ids of others by glob characters"""
    ids = [ID, "*", "?????", "[a-z]*", "run-?", f"{ID}#2", f"x:{ID}", "{a}", "..", "%00", "~" * 200]
    runs = [int(with_id(stage, id, "INCR", "jobs:n")) for id in ids]
    again = [int(with_id(stage, id, "INCR", "jobs:n")) for id in [*reversed(ids)]]
    return runs != [*range(1, len(ids) + 1)] or again != runs[::-1]


def once_name(identity: str, token_id: str) -> str:
    """Return the public name of the record of an id."""
    hashed = sha1(ID.encode(), usedforsecurity=False).hexdigest()
    return f"{NAMES.once_prefix(identity)}{token_id}:{hashed}"


def tamper(stage: Stage, name: str) -> None:
    """Read, overwrite and delete the record of an id."""
    say = stage.intruder.say
    for command in (("GET",), ("SET", "x"), ("SET", 40 * "0" + "\xa5forged"), ("SETRANGE", 0, "x"),
                    ("PEXPIRE", 1), ("SET", "x", "PX", 1), ("GETDEL",), ("DEL",),
                    ("RENAME", "jobs:x")):  # fmt: skip
        say(command[0], name, *command[1:])


@directly()
def forget_own_id(stage: Stage) -> None:
    """forge, overwrite or expire the record of an own id, so that its call runs again"""
    with_id(stage, ID, "INCR", "jobs:n")
    who = stage.operator.get(NAMES.token(WORKER, token_digest(stage.tokens[WORKER])))
    assert isinstance(who, bytes)
    stage.given("PING")
    stage.intruder.forget()
    tamper(stage, once_name(WORKER, TokenRecord.unpack(who).id))


@directly()
def anothers_stored_reply(stage: Stage) -> None:
    """read, forge or delete the record of another identity's id"""
    token_id = clerks_id(stage)
    tamper(stage, once_name(CLERK, token_id))


@directly()
def lift_own_restrictions(stage: Stage) -> None:
    """raise the caps of its token, or lift its restrictions, by writing its record"""
    name = NAMES.token(WORKER, token_digest(stage.tokens[BOUND]))
    stage.intruder.say("SETRANGE", name, FLAGS_AT, b"\0")
    stage.intruder.say("SETRANGE", name, 29, b"\x3f\0\0\0")
    stage.intruder.say("SETRANGE", name, 0, struct.pack("<d", 9e15))
