"""The parts of a connection, without a socket."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ExecAbortError

from keyleash.gateway import flow, shares
from keyleash.gateway.batches import Batches, take_plain
from keyleash.gateway.flow import Inbox, Outbox, reason_to_cut
from keyleash.gateway.resp import Status
from keyleash.gateway.shares import Share
from keyleash.gateway.subscriptions import Subscriptions
from keyleash.gateway.transactions import Transaction
from support.gateways import request


class Transport:
    """Takes bytes, and has as many of them waiting as a test says."""

    def __init__(self) -> None:
        self.sent, self.waiting, self.is_closed = b"", 0, False

    def write(self, out: bytes) -> None:
        """Take bytes."""
        self.sent += out

    def is_closing(self) -> bool:
        """Return whether it is closed."""
        return self.is_closed

    def close(self) -> None:
        """Close it."""
        self.is_closed = True

    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait."""
        return self.waiting

    def get_extra_info(self, _: str) -> Any:
        """Return a socket without a number."""
        return SimpleNamespace(fileno=lambda: -1)


class Fake:
    """A connection that notes what its parts do to it."""

    protocol, correlation, source, under_way = 2, "gw-1", "", None

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.cuts: list[str] = []
        self.started: list[Any] = []
        self.share = Share("one", Counter())
        self.gateway = SimpleNamespace(calls=0, commands=0)
        self.inbox, self.outbox = Inbox(0.0), Outbox(self.counts.append, 0.0)
        self.outbox.transport = self.transport = Transport()
        self.agent: Any = SimpleNamespace(wake=lambda _: None, given=[])
        self.agent.give_back = self.agent.keep = self.agent.given.append
        self.subscriptions = Subscriptions(self)

    def cut(self, reason: str) -> None:
        """Note it."""
        self.cuts.append(reason)

    def start(self, run: Any, commands: Any) -> None:
        """Note it."""
        self.started.append(commands)

    def go_on(self) -> None:
        """Do nothing."""

    def counted(self, _: Any, reply: bytes) -> bytes:
        """Return the reply."""
        return reply

    def encoded(self, commands: Any, values: Any) -> list[bytes]:
        """Return values as they are."""
        return [b"+%b\r\n" % value for _, value in zip(commands, values, strict=True)]


def test_replies_wait_in_order_while_an_agent_does_not_read() -> None:
    """They are counted meanwhile; the connection is closed after the last of them."""
    fake = Fake()
    outbox, transport = fake.outbox, fake.transport
    outbox.write(b"1")
    outbox.is_paused = True
    outbox.write(b"2")
    outbox.write(big := bytes(2 * flow.PIECE))
    outbox.end()
    assert (transport.sent, transport.is_closed, sum(fake.counts)) == (b"1", False, 1 + len(big))
    outbox.is_paused = False
    outbox.flush()
    assert (transport.sent, transport.is_closed, sum(fake.counts)) == (b"12" + big, True, 0)


@pytest.mark.parametrize(
    ("unsent", "arrived", "now", "reason"),
    [
        (0, b"", 1e6, ""),
        (flow.MAX_UNREAD, b"", flow.STALL_S - 1, ""),
        (flow.MAX_UNREAD, b"", flow.STALL_S + 1, "stalled"),
        (flow.MAX_UNREAD + 1, b"", flow.UNREAD_S + 1, "unread"),
        (0, b"*1\r\n", flow.STALL_S - 1, ""),
        (0, b"*1\r\n", flow.STALL_S + 1, "stalled"),
    ],
)
def test_an_agent_that_stands_still_is_cut_off_after_a_while(
    unsent: int, arrived: bytes, now: float, reason: str
) -> None:
    """It must read what waits for it, and send the rest of a request."""
    fake = Fake()
    fake.outbox.write(b"x" * unsent)
    fake.inbox.parser.feed(arrived)
    fake.transport.waiting = unsent
    fake.outbox.look(now)
    assert reason_to_cut(fake.inbox, fake.outbox, now) == reason


def test_requests_of_an_agent_that_rests_are_parsed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count as waiting."""
    monkeypatch.setattr(Share, "is_resting", is_resting := True)
    inbox, share, data = Inbox(0.0), Share("one", Counter()), request(("GET", "k"))
    monkeypatch.setattr(share, "spend", lambda _: None)
    inbox.take(data, share)
    assert (list(inbox.queue), inbox.parser.has_more, inbox.size) == ([], is_resting, len(data))
    inbox.take(b"", share)
    assert (list(inbox.queue), inbox.size) == ([("GET", b"k")], len(data))


def test_plain_commands_up_to_a_special_one_are_one_batch() -> None:
    """At most as many as their agent may have."""
    queue = deque([("GET", b"1"), ("SET", b"2", b""), ("MULTI",), ("GET", b"3")])
    assert take_plain(queue, 1) == [("GET", b"1")]
    assert take_plain(queue, 9) == [("SET", b"2", b"")]
    assert [words[0] for words in queue] == ["MULTI", "GET"]


@pytest.mark.parametrize(
    ("frame", "sent", "cuts", "started"),
    [
        (b"+OK\r\n", b"+OK\r\n", [], []),
        (b"-NOSCRIPT none\r\n", b"", [], [[("SET", b"k", b"")]]),
        (None, b"", ["upstream"], []),
    ],
)
def test_reply_to_a_batch_passes_recovers_or_ends_the_connection(
    frame: bytes | None, sent: bytes, cuts: list[str], started: list[Any]
) -> None:
    """After a lost connection, the commands may have run: nothing says that they did not."""
    fake = Fake()
    loop, commands = asyncio.new_event_loop(), [("SET", b"k", b"")]

    async def reply() -> None:
        sinks: list[Any] = []
        call = SimpleNamespace(mode=None, commands=commands)
        caller = SimpleNamespace(request=lambda _: (b"EVALSHA",))
        dialogue = SimpleNamespace(lone_call=lambda *_: call, caller=caller, due=[])
        guarded = SimpleNamespace(
            _dialogue=dialogue, agent=fake.agent, abandon=lambda: None,
            pipe=SimpleNamespace(send=lambda _, sink: sinks.append(sink)),
        )  # fmt: skip
        fake.agent.take_for = lambda _: guarded
        batches = Batches(fake)
        assert batches.send(commands)
        assert fake.share.under_way
        sinks[0](frame)
        assert fake.under_way is None

    loop.run_until_complete(reply())
    loop.close()
    assert (fake.transport.sent, fake.cuts, fake.started) == (sent, cuts, started)


def test_messages_wait_while_an_agent_does_not_read_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond it the connection is cut."""
    monkeypatch.setattr(flow, "MAX_UNREAD", 1000)
    fake = Fake()

    async def listen() -> None:
        subscriptions = fake.subscriptions
        checked = SimpleNamespace(active=True, is_check_due=False)
        subscriptions.listener = SimpleNamespace(_dialogue=SimpleNamespace(subscriptions=checked))
        subscriptions._take(b"*1\r\n:1\r\n")
        fake.outbox.is_paused = True
        for _ in range(9):
            subscriptions._take(b"*1\r\n:2\r\n")
        assert (fake.transport.sent, fake.cuts) == (b"*1\r\n:1\r\n", [])
        fake.outbox.is_paused, checked.is_check_due = False, True
        subscriptions.deliver()
        assert fake.transport.sent == b"*1\r\n:1\r\n"
        checked.is_check_due = False
        subscriptions.deliver()
        assert fake.transport.sent == b"*1\r\n:1\r\n" + b"*1\r\n:2\r\n" * 9
        subscriptions._take(bytes(1000))

    asyncio.run(listen())
    assert fake.cuts == ["unread"]


def test_answers_of_the_gateway_are_in_their_places_in_the_reply_to_exec() -> None:
    """A command that failed to be queued makes EXEC discard all."""
    fake = Fake()

    class Held:
        agent, queued, is_idle = fake.agent, list[Any](), False

        async def run(self, words: Any) -> Any:
            """Queue a command; reply to EXEC."""
            if words[0] not in ("EXEC", "DISCARD"):
                self.queued.append(words)
                return Status(b"QUEUED")
            return [b"1", b"2"]

    fake.agent.hold = Held

    async def run() -> None:
        transaction = Transaction(fake)
        for words in (("GET", b"a"), ("UNWATCH",), ("GET", b"b")):
            await transaction.run(words)
        assert await transaction.run(("EXEC",)) == b"*3\r\n+1\r\n+OK\r\n+2\r\n"
        transaction.is_aborted = True
        with pytest.raises(ExecAbortError):
            await transaction.run(("EXEC",))
        transaction.end()
        assert fake.agent.given[-1].queued
        assert not transaction.is_queueing

    asyncio.run(run())


def test_parts_are_bounded_by_the_share() -> None:
    """An agent with as many unread replies as it may have gets no messages."""
    fake = Fake()

    async def listen() -> None:
        checked = SimpleNamespace(active=False)
        fake.subscriptions.listener = SimpleNamespace(
            _dialogue=SimpleNamespace(subscriptions=checked)
        )
        fake.share.count(0, shares.MAX_UNREAD)
        fake.subscriptions._take(b"+1\r\n")
        assert fake.transport.sent == b""
        fake.share.count(0, -1)
        fake.subscriptions.deliver()
        assert fake.transport.sent == b"+1\r\n"

    asyncio.run(listen())
