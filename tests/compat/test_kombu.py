from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kombu
import pytest
from kombu.transport.redis import Transport

from compat.conftest import Guarded, every_scheme
from compat.page import Library

LIBRARY = Library(
    "kombu",
    recipe="""
import kombu
from kombu.transport.redis import Channel, Transport


class GuardedChannel(Channel):
    def _get_pool(self, asynchronous=False):
        pool = super()._get_pool(asynchronous)
        pool.connection_class = keyleash.connection_class(token, pool.connection_class)
        assert keyleash.is_guarded(pool)
        return pool


Transport.Channel = GuardedChannel
connection = kombu.Connection(url)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # Of the queues `simple` and `reader`, and the fanout exchange `news` in database 0.
      - allow: [read, write, delete]
        keys: ["simple*", "reader*", "_kombu*", "unacked*"]
        scripts: [kombu]
      - allow: [publish, subscribe]
        channels: ["/0.news*"]
""",
    unix="redis+socket://{}?virtual_host=0",
)


@pytest.fixture
def connection(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # The recipe replaces it, for this process.
    monkeypatch.setattr(Transport, "Channel", Transport.Channel)
    with guarded.run(LIBRARY.recipe).connection as connection:
        yield connection


@every_scheme
def test_simple_queue_passes_messages(connection: Any) -> None:
    """Simple queues"""
    queue = connection.SimpleQueue("simple")
    queue.put({"a": 1})
    message = queue.get(timeout=5)
    message.ack()

    assert message.payload == {"a": 1}


@every_scheme
def test_fanout_exchange_passes_messages(connection: Any) -> None:
    """Fanout exchanges"""
    exchange = kombu.Exchange("news", type="fanout")
    queue = kombu.Queue("reader", exchange)
    received: list[Any] = []
    with connection.Consumer(queue, callbacks=[lambda body, message: received.append(body)]):
        # It subscribes when it first waits for events.
        connection.drain_events(timeout=5)
        connection.Producer().publish({"a": 1}, exchange=exchange)
        connection.drain_events(timeout=5)

    assert received == [{"a": 1}]
