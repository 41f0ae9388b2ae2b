"""Data without the guard."""

from __future__ import annotations

from functools import partial

from proofs.redteam.attempt import Outcome, attempt
from proofs.redteam.stage import NOBODYS, OTHER, OTHER_SECRET, OWN, Stage

entered = partial(attempt, "Data, without the guard")
NOTHING = Outcome.NOTHING
GRANTED, GUARD = Outcome.GRANTED, Outcome.GUARD


@entered(gateway=GRANTED)
def read_own(stage: Stage) -> None:
    """read its own key, unaudited and uncounted"""
    stage.intruder.say("GET", OWN)


@entered(gateway=GRANTED)
def write_own(stage: Stage) -> None:
    """write its own key without an event"""
    stage.intruder.say("SET", OWN, "changed")


@entered()
def write_denied(stage: Stage) -> None:
    """write a key that its grants match but a deny rule excludes"""
    stage.intruder.say("SET", "jobs:locked", "changed")


@entered()
def read_others(stage: Stage) -> None:
    """read a key of another identity"""
    stage.intruder.say("GET", OTHER)


@entered()
def write_others(stage: Stage) -> None:
    """write, delete, copy or rename a key of another identity"""
    stage.intruder.say("APPEND", OTHER, "x")
    stage.intruder.say("COPY", OTHER, "books:2")
    stage.intruder.say("RENAME", OTHER, "jobs:2")
    stage.intruder.say("DEL", "books:2")


@entered(gateway=NOTHING)
def copy_across(stage: Stage) -> None:
    """copy, move, sort or merge another identity's data into its own key"""
    say = stage.intruder.say
    say("COPY", OTHER, "jobs:stolen")
    say("RENAME", OTHER, "jobs:stolen")
    say("SORT", "jobs:none", "BY", "nosort", "GET", OTHER)
    say("SUNIONSTORE", "jobs:stolen", "books:set")
    say("BITOP", "OR", "jobs:stolen", OTHER)
    say("PFMERGE", "jobs:stolen", OTHER)


@entered()
def wipe_others_by_merging_nothing(stage: Stage) -> None:
    """overwrite another identity's key where ACLs overlook a key: PFMERGE, SORT, GEORADIUS"""
    stage.given("RPUSH", "jobs:list", "2", "1")
    stage.given("GEOADD", "jobs:geo", "0", "0", "here")
    say = stage.intruder.say
    say("PFMERGE", OTHER)
    say("SORT", "jobs:list", "STORE", "jobs:x", "STORE", "books:new")
    say("SORT", "jobs:list", "STORE", "LIMIT", "STORE", "books:new")
    circle = ("0", "0", "1", "m", "STORE", "jobs:x", "STORE", "books:new")
    say("GEORADIUS", "jobs:geo", *circle)
    say("GEORADIUSBYMEMBER", "jobs:geo", "here", *circle[2:])
    say("PFMERGE", "books:hll")


@entered()
def read_behind_a_group_named_streams(stage: Stage) -> None:
    """read another identity's stream through a group named like an option"""
    stage.given("XADD", "books:log", "*", "line", OTHER_SECRET)
    stage.given("XGROUP", "CREATE", "books:log", "STREAMS", "0")
    stage.intruder.say("XREADGROUP", "GROUP", "STREAMS", "jobs:1", "STREAMS", "books:log", ">")


@entered(gateway=GRANTED)
def transaction(stage: Stage) -> None:
    """watch and write its own keys in a transaction"""
    say = stage.intruder.say
    say("WATCH", OWN)
    say("MULTI")
    if not stage.intruder.errors[-1]:
        say("SET", OWN, "changed")
        say("EXEC")


@entered(gateway=GUARD)
def list_keys(stage: Stage) -> bool:
    """list the names of keys"""
    for call in (("KEYS", "*"), ("SCAN", "0", "COUNT", "1000"), ("RANDOMKEY",), ("DBSIZE",)):
        stage.intruder.say(*call)
    return any(NOBODYS.encode() in reply for reply in stage.intruder.replies)


@entered()
def other_database(stage: Stage) -> bool:
    """work in another database"""
    say = stage.intruder.say
    say("SELECT", "1")
    say("MOVE", OWN, "1")
    say("SWAPDB", "0", "1")
    moved = not all(stage.intruder.errors)
    if moved:
        stage.operator.swapdb(0, 1)
        say("SELECT", "0")
    return moved


@entered()
def look_around(stage: Stage) -> None:
    """inspect a key without reading it: OBJECT, MEMORY, TYPE, TTL, DUMP"""
    say = stage.intruder.say
    for call in (("DUMP", OTHER), ("DUMP", NOBODYS), ("OBJECT", "ENCODING", OTHER), ("TYPE", OTHER),
                 ("MEMORY", "USAGE", OTHER), ("PTTL", OTHER), ("STRLEN", OTHER)):  # fmt: skip
        say(*call)


@entered()
def restore_and_migrate(stage: Stage) -> None:
    """replace another identity's key by RESTORE, or send it to another server by MIGRATE"""
    say = stage.intruder.say
    dumped = stage.operator.dump(OWN) or b""
    say("RESTORE", OTHER, "0", dumped, "REPLACE")
    say("RESTORE-ASKING", OTHER, "0", dumped, "REPLACE")
    say("MIGRATE", "127.0.0.1", "1", OTHER, "0", "100")
