from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("llama_index.storage.kvstore.redis")

from llama_index.core.llms import ChatMessage

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "llama-index-storage-kvstore-redis, llama-index-storage-chat-store-redis",
    recipe="""
from llama_index.storage.chat_store.redis import RedisChatStore
from llama_index.storage.kvstore.redis import RedisKVStore

client = redis.Redis(connection_pool=keyleash.pool(url, token))
aclient = redis.asyncio.Redis(connection_pool=keyleash.asyncio.pool(url, token))
store = RedisKVStore(redis_client=client, async_redis_client=aclient)
chats = RedisChatStore(redis_client=client, aredis_client=aclient)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # The collection `docs` of the store, and chats with keys `chat:…`.
      - {allow: [read, write, delete], keys: [docs, "chat:*"]}
""",
    note="The first names redis-py before 6 as its dependency, but works with newer ones: install"
    " it with `pip install --no-deps`, after `llama-index-core`.",
)


@every_scheme
def test_values_are_stored(recipe: Any) -> None:
    """Key-value store, also for asyncio: put, get, list and delete"""
    store = recipe.store
    store.put_all([("a", {"v": 1}), ("b", {"v": 2})], collection="docs")
    assert store.get("a", collection="docs") == {"v": 1}
    assert store.get_all(collection="docs") == {"a": {"v": 1}, "b": {"v": 2}}
    assert store.delete("a", collection="docs")

    async def use() -> Any:
        await store.aput("c", {"v": 3}, collection="docs")
        return await store.aget("c", collection="docs"), await store.aget_all(collection="docs")

    assert asyncio.run(use()) == ({"v": 3}, {"b": {"v": 2}, "c": {"v": 3}})


def test_chats_are_stored(recipe: Any) -> None:
    """Chat store: add, insert, read and delete"""
    chats = recipe.chats
    chats.set_messages("chat:1", [ChatMessage(content=text) for text in "ab"])
    chats.add_message("chat:1", ChatMessage(content="c"))
    chats.delete_message("chat:1", 0)

    assert sorted(item.content for item in chats.get_messages("chat:1")) == ["b", "c"]
    chats.delete_messages("chat:1")
    assert chats.get_messages("chat:1") == []


@pytest.mark.xfail(strict=True, reason="It asks for all keys of the server.")
def test_chats_are_listed(recipe: Any) -> None:
    """Chat store: `get_keys`"""
    recipe.chats.add_message("chat:1", ChatMessage(content="a"))

    assert recipe.chats.get_keys() == ["chat:1"]
