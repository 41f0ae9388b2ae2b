from __future__ import annotations

import time
from typing import Any

import pytest

pytest.importorskip("langchain_redis")

from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import HumanMessage
from langchain_core.outputs import Generation
from redisvl.query.filter import Tag

from compat.conftest import every_way
from compat.page import Library

LIBRARY = Library(
    "langchain-redis",
    recipe="""
from langchain_redis import RedisCache, RedisChatMessageHistory, RedisConfig, RedisVectorStore

client = keyleash.Redis.from_url(url, token=token)
config = RedisConfig(
    index_name="docs",
    key_prefix="docs",
    redis_client=client,
    metadata_schema=[{"name": "kind", "type": "tag"}],
)
history = RedisChatMessageHistory(
    session_id="user-1", redis_client=client, index_name="chats", key_prefix="chats:"
)
cache = RedisCache(redis_client=client, prefix="llm", ttl=3600)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write], keys: ["docs:*"], indexes: [docs]}
      - {allow: [read, write], keys: ["chats:*"], indexes: [chats]}
      - {allow: [delete], keys: ["docs:*", "chats:*"]}
      # `scan` and `delete` are for `clear()`.
      - {allow: [read, write, delete, scan], keys: ["llm:*"]}
""",
    has_modules=True,
)


@every_way
def test_texts_are_found(recipe: Any) -> None:
    """Vector store: add, search, by relevance too, get and delete"""
    store = recipe.RedisVectorStore(DeterministicFakeEmbedding(size=8), config=recipe.config)
    kinds = [{"kind": "x"}, {"kind": "y"}, {"kind": "x"}]
    ids = store.add_texts(["a b", "c d", "e f"], kinds)
    time.sleep(0.2)

    found = store.similarity_search("a b", k=2, filter=Tag("kind") == "x")
    assert {item.page_content for item in found} == {"a b", "e f"}
    assert store.similarity_search_with_score("a b", k=1)[0][0].page_content == "a b"
    assert len(store.max_marginal_relevance_search("a", k=1)) == 1
    assert [item.page_content for item in store.get_by_ids(ids[:1])] == ["a b"]
    assert store.delete(ids[:1])
    time.sleep(0.2)
    assert len(store.similarity_search("a b", k=3)) == 2


@every_way
def test_messages_are_kept(recipe: Any) -> None:
    """Chat histories: add, read, search and clear"""
    history = recipe.history
    history.add_message(HumanMessage("hello"))
    time.sleep(0.2)

    assert [message.content for message in history.messages] == ["hello"]
    assert len(history.search_messages("hello")) == 1
    history.clear()
    time.sleep(0.2)
    assert history.messages == []


@every_way
def test_generations_are_cached(recipe: Any) -> None:
    """Cache of generations"""
    recipe.cache.update("prompt", "model", [Generation(text="a")])

    assert recipe.cache.lookup("prompt", "model") == [Generation(text="a")]
    recipe.cache.clear()
    assert recipe.cache.lookup("prompt", "model") is None
