"""Texts that say more than they should."""

from __future__ import annotations

from functools import partial

from proofs.redteam.attempt import Outcome, attempt
from proofs.redteam.stage import OWN, Stage

entered = partial(attempt, "Replies and error texts", by_guard=True)
NOTHING = Outcome.NOTHING
harmless = partial(entered, direct=NOTHING, gateway=NOTHING)


@harmless()
def errors_of_commands(stage: Stage) -> None:
    """provoke errors that name keys: NOGROUP, BUSYKEY, WRONGTYPE, no such key"""
    call = stage.intruder.call
    call("XREADGROUP", "GROUP", "none", "me", "STREAMS", "jobs:2", ">", keys=["jobs:2"])
    call("XADD", "jobs:log", "*", "a", "b")
    for tail in (("jobs:log",), ("jobs:log", "jobs:log")):
        ids = [">"] * len(tail)
        call("XREADGROUP", "GROUP", "none", "me", "STREAMS", *tail, *ids, keys=tail)
    call("XPENDING", "jobs:log", "none")
    call("XGROUP", "DESTROY", "jobs:none", "g", keys=["jobs:none"])
    call("XINFO", "GROUPS", "jobs:none", keys=["jobs:none"])
    call("XINFO", "STREAM", "jobs:log", "FULL", keys=["jobs:log"])
    call("XCLAIM", "jobs:log", "none", "me", "0", "1-1")
    call("XAUTOCLAIM", "jobs:log", "none", "me", "0", "0")
    call("LPUSH", OWN, "x")
    call("RENAME", "jobs:none", "jobs:x", keys=["jobs:none", "jobs:x"])
    call("RESTORE", OWN, "0", "x")
    call("RESTORE", "jobs:new", "0", "not a dump")
    call("OBJECT", "ENCODING", "jobs:none", keys=["jobs:none"])
    call("SET", OWN, "x", "NONSENSE")
    call("GET", OWN, "too", "many")


@harmless()
def names_in_replies(stage: Stage) -> None:
    """provoke replies that name keys: LMPOP, ZMPOP, BLPOP, XREAD, HSCAN and similar"""
    call = stage.intruder.call
    call("RPUSH", "jobs:l", "1", "2", "3")
    call("ZADD", "jobs:z", "1", "m", "2", "n")
    call("XADD", "jobs:s", "*", "f", "v")
    call("LMPOP", "2", "jobs:none", "jobs:l", "LEFT", keys=["jobs:none", "jobs:l"])
    call("ZMPOP", "2", "jobs:none", "jobs:z", "MIN", keys=["jobs:none", "jobs:z"])
    call("BLPOP", "jobs:l", "1", keys=["jobs:l"])
    call("BZPOPMIN", "jobs:z", "1", keys=["jobs:z"])
    call("XREAD", "STREAMS", "jobs:s", "0", keys=["jobs:s"])
    call("XGROUP", "CREATE", "jobs:s", "g", "0", keys=["jobs:s"])
    call("XREADGROUP", "GROUP", "g", "me", "STREAMS", "jobs:s", ">", keys=["jobs:s"])
    call("XINFO", "CONSUMERS", "jobs:s", "g", keys=["jobs:s"])
    call("SORT", "jobs:l", "ALPHA")
    call("HSCAN", "jobs:none", "0")


@harmless()
def refusals(stage: Stage) -> None:
    """find out from denials whether keys of others exist"""
    call = stage.intruder.call
    there, absent = call("GET", "books:1"), call("GET", "books:7")
    assert there.replace(b"books:1", b"") == absent.replace(b"books:7", b"")
    stage.intruder.forget()
    stage.intruder.say("PING")
