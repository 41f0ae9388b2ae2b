from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("autogen_ext")

from autogen_core.models import UserMessage
from autogen_ext.models.cache import ChatCompletionCache
from autogen_ext.models.replay import ReplayChatCompletionClient

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "autogen-ext",
    recipe="""
from autogen_ext.cache_store.redis import RedisStore

store = RedisStore(redis.Redis(connection_pool=keyleash.pool(url, token)))
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # The keys of `ChatCompletionCache` are digests, without a prefix.
      - {allow: [read, write], keys: ["{digest}"]}
""",
    note="Its store catches denials: a denied read is a missing value.",
)


@every_scheme
def test_completions_are_cached(recipe: Any) -> None:
    """Cache of chat completions"""
    model = ReplayChatCompletionClient(["one", "two"])
    cached = ChatCompletionCache(model, recipe.store)
    question = [UserMessage(content="1 + 0?", source="user")]

    async def use() -> list[Any]:
        return [await cached.create(question) for _ in range(2)]

    first, second = asyncio.run(use())
    assert (first.content, second.content) == ("one", "one")
    assert second.cached


def test_values_are_stored(recipe: Any) -> None:
    """Store: set and get"""
    recipe.store.set("a", [{"b": 1}])

    assert recipe.store.get("a") == [{"b": 1}]
    assert recipe.store.get("none", 5) == 5
