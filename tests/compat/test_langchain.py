from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_community")

from langchain_core.outputs import Generation

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "langchain-community",
    recipe="""
from langchain_community.cache import RedisCache
from langchain_community.chat_message_histories import redis as histories
from langchain_community.storage import RedisStore


def client(redis_url=url):
    return redis.Redis(connection_pool=keyleash.pool(redis_url, token))


histories.get_client = client
history = histories.RedisChatMessageHistory("user-1", url=url)
cache = RedisCache(client())
store = RedisStore(client=client(), namespace="store")
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["message_store:*"]}
      # `RedisStore` with the namespace `store`; `scan` is for `yield_keys`.
      - {allow: [read, write, delete, scan], keys: ["store/*"]}
      # The keys of `RedisCache` are digests, without a prefix.
      - {allow: [read, write], keys: ["{digest}"]}
""",
    note="Its vector stores went to [langchain-redis](#langchain-redis).",
)


@every_scheme
def test_messages_are_kept(recipe: Any) -> None:
    """Chat histories: add, read and clear"""
    recipe.history.add_user_message("hello")
    recipe.history.add_ai_message("yes?")

    assert [message.content for message in recipe.history.messages] == ["hello", "yes?"]
    recipe.history.clear()
    assert recipe.history.messages == []


def test_generations_are_cached(recipe: Any) -> None:
    """Cache of generations"""
    recipe.cache.update("prompt", "model", [Generation(text="a")])

    assert recipe.cache.lookup("prompt", "model") == [Generation(text="a")]
    assert recipe.cache.lookup("other", "model") is None


def test_bytes_are_stored(recipe: Any) -> None:
    """Byte store: set, get, list and delete"""
    store = recipe.store
    store.mset([("a", b"1"), ("b", b"2")])

    assert store.mget(["a", "b", "c"]) == [b"1", b"2", None]
    assert sorted(store.yield_keys()) == ["a", "b"]
    store.mdelete(["a"])
    assert store.mget(["a"]) == [None]
