"""PUBSUB NUMSUB of redis-py's own clients over guarded connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import keyleash
from client.alike import awaiting
from client.test_connection import AsyncPooled, Pooled
from client.test_subscriptions import LISTENING, listener, next_message
from keyleash.audit.read import read_events
from support.leash import Leash, grant
from support.scripted import scripted
from support.servers import RealServer


@pytest.fixture(params=["sync", "async"])
def leash(request: pytest.FixtureRequest, server: RealServer) -> Iterator[Pooled]:
    with awaiting() as runner:
        leash = Pooled(server) if request.param == "sync" else AsyncPooled(server, runner)
        leash.load(one={**LISTENING, "budget": {"requests": "4/day"}})
        yield leash


def test_subscribers_of_granted_channels_are_counted(leash: Pooled) -> None:
    """It is charged as one request and recorded as none; a denied call is not even charged."""
    pubsub = listener(leash.agent("one"))
    pubsub.subscribe("events:a")
    assert next_message(pubsub)[0] == "subscribe"
    agent = leash.agent("one")

    for channels in (("other",), ("events:a", "other"), ("other", "events:a"), ("jobs:1:2:done",)):
        with pytest.raises(keyleash.ChannelNotGrantedError) as caught:
            agent.pubsub_numsub(*channels)
        assert caught.value.details["channel"] in ("other", "jobs:1:2:done")
    assert agent.pubsub_numsub("events:a", "jobs:1:done") == [
        (b"events:a", 1), (b"jobs:1:done", 0),
    ]  # fmt: skip
    assert agent.execute_command("pubsub", "numsub") == []
    pipeline = agent.pipeline(transaction=False)
    pipeline.pubsub_numsub("events:a")
    pipeline.pubsub_numsub("out")
    counted, denied = pipeline.execute(raise_on_error=False)
    assert counted == [(b"events:a", 1)]
    assert isinstance(denied, keyleash.ChannelNotGrantedError)
    with pytest.raises(keyleash.BudgetExhaustedError):
        agent.pubsub_numsub("events:a")
    assert [event.op for event in read_events(leash.store, ["one"])] == ["SUBSCRIBE"]


def test_subscribers_of_granted_shard_channels_are_counted(leash: Pooled) -> None:
    """By the rule of NUMSUB; of the others the server has no counts."""
    agent = leash.agent("one")
    assert agent.pubsub_shardnumsub("events:a") == [(b"events:a", 0)]
    with pytest.raises(keyleash.ChannelNotGrantedError):
        agent.execute_command("PUBSUB SHARDNUMSUB", "events:a", "other")


@pytest.mark.parametrize("words", ["CHANNELS", "NUMPAT", "SHARDCHANNELS"])
def test_other_questions_about_subscribers_are_refused(leash: Pooled, words: str) -> None:
    """With channels and without, the denial has the same reason."""
    for grants in (LISTENING["grants"], [grant("read", keys="t:*")]):
        leash.load(one={"grants": grants})
        with pytest.raises(keyleash.CommandRefusedError, match="who listens to which channels"):
            leash.agent("one").execute_command("PUBSUB", words)


@pytest.mark.parametrize(
    ("grants", "error"),
    [
        ([{"allow": ["publish"], "channels": ["a"]}], keyleash.ClassNotGrantedError),
        ([grant("read", "write", "delete", "scan", keys="*")], keyleash.CommandRefusedError),
        ([{**LISTENING["grants"][0], "except": ["PUBSUB NUMSUB"]}], keyleash.CommandRefusedError),
    ],
)
def test_subscribers_are_not_counted_without_the_class(
    leash: Pooled, grants: list[dict[str, Any]], error: type[keyleash.LeashError]
) -> None:
    """Only `subscribe` gives it."""
    leash.load(one={"grants": grants})
    with pytest.raises(error):
        leash.agent("one").pubsub_numsub("a")


def test_recorded_reads_include_counts_of_subscribers(server: RealServer) -> None:
    """The event names the last channel."""
    leash = Leash(server)
    leash.load(one={**LISTENING, "audit": {"reads": True}})

    assert leash.agent("one").pubsub_numsub("events:a", "events:b") == [
        (b"events:a", 0), (b"events:b", 0),
    ]  # fmt: skip

    events = [(event.op, event.keys) for event in read_events(leash.store, ["one"])]
    assert events == [("PUBSUB NUMSUB", (b"events:b",))]


def test_approved_script_counts_subscribers_of_granted_channels(server: RealServer) -> None:
    """Each call of a script is checked like one without it."""
    leash = Leash(server)
    text = "return redis.call('PUBSUB', 'NUMSUB', ARGV[1])"
    agent = scripted(leash, text, *LISTENING["grants"][:2])

    assert agent.eval(text, 1, "app:n", "events:a") == [b"events:a", 0]
    with pytest.raises(keyleash.ChannelNotGrantedError):
        agent.eval(text, 1, "app:n", "out")
