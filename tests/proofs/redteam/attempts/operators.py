"""Attacks with the commands of operators."""

from __future__ import annotations

from functools import partial

from proofs.redteam.attempt import Outcome, attempt
from proofs.redteam.stage import CLERK, OPERATOR, OTHER, OWN, Stage

entered = partial(attempt, "Commands of operators")
NOTHING = Outcome.NOTHING


@entered()
def learn_of_users(stage: Stage) -> bool:
    """read users, their rights and passwords"""
    for call in (("ACL", "LIST"), ("ACL", "GETUSER", CLERK), ("ACL", "USERS"), ("ACL", "LOG"),
                 ("ACL", "WHOAMI"), ("ACL", "DRYRUN", CLERK, "GET", OTHER)):  # fmt: skip
        stage.intruder.say(*call)
    return stage.answered()


@entered()
def become_another(stage: Stage) -> bool:
    """give itself rights, create a user, or delete one"""
    say = stage.intruder.say
    say("ACL", "SETUSER", "mine", "on", "nopass", "~*", "+@all")
    say("ACL", "SETUSER", stage.intruder.holds.user or OPERATOR, "+@all", "~*")
    say("ACL", "DELUSER", "missing")
    stage.operator.acl_deluser("mine")
    return stage.answered()


@entered(gateway=NOTHING)
def log_in_as_another(stage: Stage) -> bool:
    """log in as another user with its own password, without one, or after RESET"""
    say, holds = stage.intruder.say, stage.intruder.holds
    for user in (CLERK, OPERATOR, "default"):
        say("AUTH", user, holds.password or "")
        say("AUTH", user, "")
    say("HELLO", "3", "AUTH", "default", "x")
    say("RESET")
    stage.intruder.errors[-1] = True
    stage.intruder.replies[-1] = b"NOAUTH"
    say("GET", OWN)
    say("GET", OTHER)
    return False


@entered(gateway=NOTHING)
def configure(stage: Stage) -> bool:
    """read or change the configuration, save, become a replica"""
    for call in (("CONFIG", "GET", "*"), ("CONFIG", "SET", "maxmemory", "0"),
                 ("BGSAVE", "x"), ("REPLICAOF", "NO", "ONE"), ("INFO",), ("LATENCY", "LATEST"),
                 ("MODULE", "LIST"), ("COMMAND", "COUNT"), ("LASTSAVE",), ("MEMORY", "STATS"),
                 ("CLUSTER", "INFO"), ("FAILOVER", "ABORT"), ("ROLE",)):  # fmt: skip
        stage.intruder.say(*call)
    return stage.answered()


@entered(gateway=NOTHING)
def debug(stage: Stage) -> bool:
    """inspect the server's memory, its logs and other clients"""
    for call in (("OBJECT", "HELP"), ("OBJECT", "ENCODING", OTHER), ("MEMORY", "DOCTOR"),
                 ("SLOWLOG", "GET"), ("SLOWLOG", "RESET"), ("CLIENT", "LIST"),
                 ("CLIENT", "KILL", "TYPE", "pubsub"), ("CLIENT", "PAUSE", "0"),
                 ("CLIENT", "NO-EVICT", "off")):  # fmt: skip
        stage.intruder.say(*call)
    return stage.answered()


@entered()
def flush(stage: Stage) -> None:
    """delete everything"""
    stage.intruder.say("FLUSHALL")
    stage.intruder.say("FLUSHDB")
