"""Subscriptions of redis-py's own clients over guarded connections."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.backoff import NoBackoff

import keyleash
from client.alike import Awaited, awaiting
from client.test_connection import AsyncPooled, Pooled
from keyleash.audit.read import read_events
from keyleash.client.guarding import Guarding
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.revoke import revoke
from support.leash import NAMES, Leash, grant
from support.redis_py import needs_redis_py_8
from support.servers import RealServer

LISTENING = {
    "grants": [
        {"allow": ["subscribe"], "channels": ["events:*", "jobs:{job}:done"]},
        {"allow": ["publish"], "channels": ["out"]},
        grant("read", keys="t:*"),
    ]
}
WAIT_S = 60


@pytest.fixture(params=["sync", "async"])
def leash(request: pytest.FixtureRequest, embedded: RealServer) -> Iterator[Pooled]:
    with awaiting() as runner:
        leash = Pooled(embedded) if request.param == "sync" else AsyncPooled(embedded, runner)
        leash.load(one=LISTENING)
        yield leash


def listener(agent: Any) -> Any:
    """Return the agent's PubSub, whose calls are awaited if it is of asyncio."""
    made = agent.pubsub()
    return Awaited(made, agent._runner) if isinstance(agent, Awaited) else made


def next_message(pubsub: Any) -> tuple[str, Any, Any]:
    """Return kind, channel and data of the next message."""
    message = pubsub.get_message(timeout=WAIT_S)
    assert message is not None
    return message["type"], message["channel"], message["data"]


def test_granted_channels_deliver_their_messages(leash: Pooled) -> None:
    """By name and by pattern; each subscription is recorded and charged."""
    pubsub = listener(leash.agent("one"))
    pubsub.subscribe("events:a", "jobs:1:done")
    pubsub.psubscribe("events:b:*")
    for _ in range(3):
        assert "subscribe" in next_message(pubsub)[0]

    leash.admin.publish("events:a", "1")
    leash.admin.publish("events:b:x", "2")

    assert [next_message(pubsub) for _ in range(2)] == [
        ("message", b"events:a", b"1"),
        ("pmessage", b"events:b:x", b"2"),
    ]
    pubsub.unsubscribe()
    assert {next_message(pubsub)[0] for _ in range(2)} == {"unsubscribe"}
    assert [(event.op, event.keys) for event in read_events(leash.store, ["one"])] == [
        ("SUBSCRIBE", (b"events:a",)),
        ("SUBSCRIBE", (b"jobs:1:done",)),
        ("PSUBSCRIBE", (b"events:b:*",)),
    ]


@needs_redis_py_8
def test_sharded_channels_deliver_their_messages(leash: Pooled) -> None:
    """asyncio's client of redis-py 7 cannot subscribe to them."""
    pubsub = listener(leash.agent("one"))
    pubsub.ssubscribe("events:c")
    assert next_message(pubsub) == ("ssubscribe", b"events:c", 1)

    leash.admin.spublish("events:c", "3")

    assert next_message(pubsub) == ("smessage", b"events:c", b"3")
    with pytest.raises(keyleash.ChannelNotGrantedError):
        pubsub.ssubscribe("x")


@pytest.mark.parametrize(
    ("subscribe", "channel"),
    [
        (lambda pubsub: pubsub.subscribe("events:a", "out"), "out"),
        (lambda pubsub: pubsub.subscribe("jobs:1:2:done"), "jobs:1:2:done"),
        (lambda pubsub: pubsub.psubscribe("*"), "*"),
        (lambda pubsub: pubsub.psubscribe("events*"), "events*"),
        # It is within the granted channels, but no granted `*` covers it.
        (lambda pubsub: pubsub.psubscribe("jobs:[12]:done"), "jobs:[12]:done"),
    ],
)
def test_channel_that_is_not_granted_is_denied(
    leash: Pooled, subscribe: Callable[[Any], Any], channel: str
) -> None:
    """Nothing is subscribed then, and the subscriptions before it go on."""
    pubsub = listener(leash.agent("one"))
    pubsub.subscribe("events:b")
    assert next_message(pubsub)[0] == "subscribe"

    with pytest.raises(keyleash.ChannelNotGrantedError) as caught:
        subscribe(pubsub)

    assert caught.value.details["channel"] == channel
    assert [count for _, count in leash.admin.pubsub_numsub("events:a", channel)] == [0, 0]
    leash.admin.publish("events:b", "1")
    assert next_message(pubsub) == ("message", b"events:b", b"1")


@pytest.mark.parametrize("pattern", ["events:*", "events:a*", "events:[ab]?", "jobs:1:done"])
def test_pattern_within_a_granted_one_is_allowed(leash: Pooled, pattern: str) -> None:
    """Its text before the first wildcard matches a granted pattern that ends with `*`."""
    pubsub = listener(leash.agent("one"))
    pubsub.psubscribe(pattern)

    assert next_message(pubsub) == ("psubscribe", pattern.encode(), 1)


def test_class_is_needed_to_subscribe_and_not_to_make_a_pubsub(leash: Pooled) -> None:
    """Some libraries make one that they never use; publishing is another class."""
    leash.load(one={"grants": [{"allow": ["publish"], "channels": ["events:*"]}]})
    pubsub = listener(leash.agent("one"))

    with pytest.raises(keyleash.ClassNotGrantedError, match="subscribe"):
        pubsub.subscribe("events:a")


def test_subscription_within_a_pipeline_is_denied(leash: Pooled) -> None:
    """The replies to it would be messages."""
    for transaction in (True, False):
        pipe = leash.agent("one").pipeline(transaction=transaction)
        pipe.execute_command("SUBSCRIBE", "events:a")
        with pytest.raises(keyleash.CommandRefusedError, match="outside of the pipeline"):
            pipe.execute()


def require_nobody_listens(leash: Leash) -> None:
    """Wait until the server has seen that the connection is closed."""
    while leash.admin.pubsub_numsub("events:a") != [(b"events:a", 0)]:
        pass


def revoke_token(leash: Leash) -> None:
    revoke(leash.store, identity="one")


def expire_token(leash: Leash) -> None:
    (name,) = leash.admin.keys(NAMES.token_prefix("one") + "*")
    leash.admin.delete(name)


def freeze_identity(leash: Leash) -> None:
    freeze(leash.store, "one", reason="x")


def remove_channel(leash: Leash) -> None:
    leash.load(one={"grants": [{"allow": ["subscribe"], "channels": ["other:*"]}]})


def remove_identity(leash: Leash) -> None:
    leash.load(two=LISTENING)


ENDS: list[tuple[Callable[[Leash], None], type[keyleash.LeashError]]] = [
    (revoke_token, keyleash.TokenRevokedError),
    (expire_token, keyleash.TokenUnknownError),
    (freeze_identity, keyleash.SuspendedError),
    (remove_channel, keyleash.ChannelNotGrantedError),
    (remove_identity, keyleash.NotActiveError),
]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check subscriptions ten times a second."""
    monkeypatch.setattr(Guarding, "check_every_s", 0.1)


def listen(pubsub: Any) -> None:
    while True:
        pubsub.parse_response(block=True)


def poll(pubsub: Any, times: int | None = None) -> None:
    for _ in itertools.repeat(None) if times is None else range(times):
        pubsub.get_message(timeout=0.01)


def wait(pubsub: Any) -> None:
    while True:
        pubsub.get_message(timeout=WAIT_S)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(("end", "error"), ENDS, ids=[end.__name__ for end, _ in ENDS])
@pytest.mark.parametrize("read", [listen, wait], ids=lambda read: read.__name__)
def test_live_subscription_ends_with_its_right(
    leash: Pooled,
    read: Callable[[Any], None],
    end: Callable[[Leash], None],
    error: type[keyleash.LeashError],
) -> None:
    """With the typed error, however the caller waits; the server delivers nothing more."""
    pubsub = listener(leash.agent("one"))
    pubsub.subscribe("events:a")
    later = threading.Timer(0.2, end, [leash])
    later.start()

    with pytest.raises(error):
        read(pubsub)
    later.join()

    require_nobody_listens(leash)
    with pytest.raises(error):
        pubsub.get_message(timeout=WAIT_S)


@pytest.mark.usefixtures("often")
def test_polling_learns_of_the_end_too(leash: Pooled) -> None:
    """Each poll is shorter than the time between two checks."""
    pubsub = listener(leash.agent("one"))
    pubsub.subscribe("events:a")
    poll(pubsub, 3)
    revoke_token(leash)

    with pytest.raises(keyleash.TokenRevokedError):
        poll(pubsub)


@pytest.mark.usefixtures("often")
def test_client_of_keyleash_listens_too(embedded: RealServer) -> None:
    """It is redis-py's, over guarded connections."""
    leash = Leash(embedded)
    leash.load(one=LISTENING)
    agent: Any = leash.agent("one", decode_responses=True)
    pubsub = agent.pubsub()
    pubsub.subscribe("events:a")
    assert next_message(pubsub) == ("subscribe", "events:a", 1)
    leash.admin.publish("events:a", "1")
    assert next_message(pubsub) == ("message", "events:a", "1")

    revoke_token(leash)
    with pytest.raises(keyleash.TokenRevokedError):
        listen(pubsub)


@pytest.mark.usefixtures("often")
def test_messages_without_a_pause_do_not_delay_the_end(leash: Pooled) -> None:
    """A reader that always finds a message learns of the revocation too."""
    pubsub = listener(leash.agent("one"))
    pubsub.subscribe("events:a")
    done = threading.Event()

    def publish() -> None:
        while not done.wait(0.001):
            leash.admin.publish("events:a", "x")

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        next_message(pubsub)
        revoke_token(leash)
        with pytest.raises(keyleash.TokenRevokedError):
            listen(pubsub)
    finally:
        done.set()
        thread.join()


@pytest.mark.usefixtures("often")
def test_checks_of_a_live_subscription_are_not_charged_or_recorded(leash: Pooled) -> None:
    """The subscription itself is, and again under another policy."""
    budget = {"budget": {"requests": "2/day"}}
    leash.load(one={**LISTENING, **budget})
    pubsub = listener(leash.agent("one"))
    pubsub.subscribe("events:a")
    commands = calls(leash)
    while calls(leash) < commands + 5:
        pubsub.get_message(timeout=0.05)
    assert len(leash.events("one")) == 1

    leash.load(one={**LISTENING, **budget, "rate": {"writes": "5/minute"}})
    while len(leash.events("one")) < 2:
        pubsub.get_message(timeout=0.05)
    leash.admin.publish("events:a", "1")
    while not (message := pubsub.get_message(timeout=WAIT_S)) or message["type"] != "message":
        pass

    assert len(leash.events("one")) == 2
    with pytest.raises(keyleash.BudgetExhaustedError):
        pubsub.subscribe("events:b")


def calls(leash: Leash) -> int:
    """Return the calls of guards so far."""
    return int(leash.admin.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_reconnected_subscription_is_checked_again(leash: Pooled) -> None:
    """redis-py connects again by itself; a revoked token gets nothing."""
    pubsub = listener(leash.agent("one", retry=leash.retry_class(NoBackoff(), 1)))
    pubsub.subscribe("events:a")
    assert next_message(pubsub)[0] == "subscribe"

    leash.admin.client_kill_filter(_type="pubsub")
    assert next_message(pubsub)[0] == "subscribe"
    assert len(leash.events("one")) == 2

    revoke_token(leash)
    leash.admin.client_kill_filter(_type="pubsub")
    with pytest.raises(keyleash.TokenRevokedError):
        pubsub.get_message(timeout=WAIT_S)
    require_nobody_listens(leash)


@pytest.mark.usefixtures("often")
def test_lost_connection_of_the_checks_is_made_again(leash: Pooled) -> None:
    """The subscription goes on, and is still checked."""
    pubsub = listener(leash.agent("one"))
    pubsub.subscribe("events:a")
    assert next_message(pubsub)[0] == "subscribe"
    for client in leash.admin.client_list(_type="normal"):
        if client["id"] != str(leash.admin.client_id()):
            leash.admin.client_kill_filter(_id=client["id"])

    leash.admin.publish("events:a", "1")
    assert pubsub.get_message(timeout=WAIT_S) is not None
    revoke_token(leash)
    with pytest.raises(keyleash.TokenRevokedError):
        listen(pubsub)


def test_connections_of_a_subscription_are_closed_with_it(leash: Pooled) -> None:
    """The one that delivers and the one that is asked."""
    agent = leash.agent("one", client_name="job")
    pubsub = listener(agent)
    pubsub.subscribe("events:a")

    def count() -> int:
        return sum(client["name"] == "job" for client in leash.admin.client_list())

    assert count() == 2
    pubsub.aclose() if isinstance(pubsub, Awaited) else pubsub.close()
    while count():
        pass


@pytest.mark.usefixtures("often")
def test_one_thread_subscribes_while_another_listens(embedded: RealServer) -> None:
    """Each message arrives, and each subscription is checked."""
    leash = Pooled(embedded)
    leash.load(one=LISTENING)
    agent: Any = leash.agent("one")
    pubsub = agent.pubsub()
    heard: list[bytes] = []
    names = [f"events:{number}" for number in range(50)]
    handlers: dict[str, Any] = {name: lambda item: heard.append(item["channel"]) for name in names}
    pubsub.subscribe(**dict([handlers.popitem()]))
    thread = pubsub.run_in_thread(sleep_time=0.01)
    try:
        for name, handler in handlers.items():
            pubsub.subscribe(**{name: handler})
        for name in names:
            while not leash.admin.publish(name, "x"):
                pass
        while len(heard) < len(names):
            thread.join(0.01)
            assert thread.is_alive()
    finally:
        thread.stop()
        thread.join()
    assert sorted(heard) == sorted(name.encode() for name in names)
