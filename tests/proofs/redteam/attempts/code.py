"""Code of one's own."""

from __future__ import annotations

from functools import partial

from proofs.redteam.attempt import Outcome, attempt
from proofs.redteam.stage import NAMES, NOBODYS, OTHER, OWN, WORKER, Stage

entered = partial(attempt, "Code")
NOTHING = Outcome.NOTHING
READ = "return redis.call('GET', KEYS[1])"
LIBRARY = """#!lua name=mine
redis.register_function('f', function(keys) return redis.call('GET', keys[1]) end)
"""


@entered()
def run_code(stage: Stage) -> None:
    """run its own Lua"""
    say = stage.intruder.say
    for name in ("EVAL", "EVAL_RO"):
        say(name, READ, 1, OTHER)
        say(name, "return redis.call('GET', 'ledger')", 0)
        say(name, READ, 1, OWN)


@entered()
def load_code(stage: Stage) -> None:
    """load scripts and functions, and call them"""
    say = stage.intruder.say
    digest = say("SCRIPT", "LOAD", READ)
    say("EVALSHA", digest if not stage.intruder.errors[-1] else "0" * 40, 1, OTHER)
    say("FUNCTION", "LOAD", "REPLACE", LIBRARY)
    say("FCALL", "f", 1, OTHER)
    say("FCALL_RO", "f", 1, OTHER)
    if not stage.intruder.errors[2]:
        stage.operator.function_delete("mine")


@entered()
def others_code(stage: Stage) -> None:
    """call scripts that operators have loaded"""
    script = stage.operator.script_load("return redis.call('GET', KEYS[1])")
    stage.intruder.say("EVALSHA", script, 1, OTHER)
    stage.intruder.say("EVALSHA_RO", script, 1, NOBODYS)


@entered()
def read_only_guard(stage: Stage) -> bool:
    """call its guard so that a denial cannot be recorded"""
    refused = stage.operator.xlen(NAMES.denied(WORKER))
    header = (stage.tokens[WORKER], "c")
    head = stage.intruder.head(stage.intruder.record[b"digest"], "_RO")
    stage.intruder.say(*head, 1, OTHER, *header, "GET", OTHER)
    unwritten = stage.operator.xlen(NAMES.denied(WORKER)) == refused
    return unwritten and not stage.intruder.replies[-1].startswith(b"NOPERM")


@entered(gateway=NOTHING)
def read_source(stage: Stage) -> bool:
    """read the text of a guard, or delete scripts"""
    say = stage.intruder.say
    reply = say("HGETALL", NAMES.source(WORKER))
    say("SCRIPT", "EXISTS", "0" * 40)
    say("FUNCTION", "LIST")
    return bool(reply) and not stage.intruder.errors[0]
