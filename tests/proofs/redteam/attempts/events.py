"""Watching, and messages."""

from __future__ import annotations

from functools import partial

from proofs.redteam.attempt import attempt
from proofs.redteam.stage import OTHER, OTHER_SECRET, Stage

entered = partial(attempt, "Watching others, and messages")


@entered()
def monitor(stage: Stage) -> None:
    """see every command that is sent, tokens among them"""
    stage.intruder.say("MONITOR")
    if not stage.intruder.errors[-1]:
        stage.operator.append(OTHER, OTHER_SECRET)
        stage.intruder.hear()


@entered()
def keyspace_events(stage: Stage) -> bool:
    """receive keyspace notifications"""
    for call in (
        ("PSUBSCRIBE", "__key*"),
        ("SUBSCRIBE", "__keyevent@0__:set"),
        ("SSUBSCRIBE", "c"),
    ):
        stage.intruder.say(*call)
    return not all(stage.intruder.errors)


@entered()
def tracking(stage: Stage) -> bool:
    """receive invalidations of client-side caching for other keys"""
    stage.intruder.say("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "books:")
    stage.intruder.say("CLIENT", "CACHING", "YES")
    return not all(stage.intruder.errors)


@entered()
def messages(stage: Stage) -> bool:
    """send messages to others"""
    stage.intruder.say("PUBLISH", "c", "x")
    stage.intruder.say("SPUBLISH", "c", "x")
    stage.intruder.say("PUBSUB", "CHANNELS")
    return not all(stage.intruder.errors)


@entered()
def wait_for_others(stage: Stage) -> bool:
    """block on other identities' keys, or wait for replicas"""
    for call in (("BLPOP", OTHER, "0.01"), ("XREAD", "BLOCK", "1", "STREAMS", OTHER, "$"),
                 ("BZPOPMIN", OTHER, "0.01"), ("WAITAOF", "0", "0", "1")):  # fmt: skip
        stage.intruder.say(*call)
    return not all(stage.intruder.errors)
