from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kombu
import pytest
from kombu.transport.redis import Channel

import keyleash
from compat.conftest import Guarded

LIBRARY = "kombu"
BUNDLES = ["kombu"]
POLICY = """
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
"""
CLIENT = """
from kombu.transport.redis import Channel

Channel.connection_class = keyleash.connection_class(token)
connection = kombu.Connection(url)
"""


@pytest.fixture
def connection(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(Channel, "connection_class", keyleash.connection_class(guarded.token))
    with kombu.Connection(guarded.url) as connection:
        yield connection


def test_simple_queue_passes_messages(connection: Any) -> None:
    """Simple queues"""
    queue = connection.SimpleQueue("simple")
    queue.put({"a": 1})
    message = queue.get(timeout=5)
    message.ack()

    assert message.payload == {"a": 1}


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
