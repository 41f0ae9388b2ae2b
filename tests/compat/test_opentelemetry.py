from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from compat.conftest import Guarded
from compat.page import Library

LIBRARY = Library(
    "opentelemetry-instrumentation-redis",
    recipe="""
from opentelemetry import trace
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace import TracerProvider

provider = TracerProvider()
RedisInstrumentor().instrument(tracer_provider=provider)
client = keyleash.Redis.from_url(url, token=token)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write], keys: ["app:*"]}
""",
)


@pytest.fixture
def spans(recipe: Any) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    recipe.provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    RedisInstrumentor().uninstrument()


def test_calls_have_spans(recipe: Any, spans: Any, guarded: Guarded) -> None:
    """Spans of commands and pipelines, also of guarded pools, without the token"""
    plain = guarded.client()
    for client in (recipe.client, plain):
        client.set("app:a", 1)
        client.pipeline().get("app:a").incr("app:a").execute()
        with pytest.raises(recipe.keyleash.KeyNotGrantedError):
            client.get("other")
    found = spans.get_finished_spans()

    assert [span.name for span in found] == ["SET", "GET INCRBY", "GET"] * 2
    assert found[0].attributes["db.statement"] == "SET ? ?"
    assert not any(guarded.token in span.to_json() for span in found)
