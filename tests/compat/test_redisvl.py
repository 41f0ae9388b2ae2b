from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

pytest.importorskip("redisvl")

import numpy as np
from redisvl.query import (
    AggregateHybridQuery,
    CountQuery,
    FilterQuery,
    TextQuery,
    VectorQuery,
    VectorRangeQuery,
)
from redisvl.query.filter import Num, Tag

from compat.conftest import every_way
from compat.page import Library

LIBRARY = Library(
    "redisvl",
    recipe="""
from redisvl.extensions.cache.embeddings import EmbeddingsCache
from redisvl.extensions.cache.llm import SemanticCache
from redisvl.extensions.message_history import MessageHistory
from redisvl.index import AsyncSearchIndex, SearchIndex
from redisvl.utils.vectorize import CustomVectorizer

schema = {
    "index": {"name": "docs", "prefix": "docs:", "storage_type": "hash"},
    "fields": [
        {"name": "user", "type": "tag"},
        {"name": "text", "type": "text"},
        {"name": "age", "type": "numeric"},
        {
            "name": "vector",
            "type": "vector",
            "attrs": {"algorithm": "hnsw", "dims": 4, "datatype": "float32"},
        },
    ],
}
client = keyleash.Redis.from_url(url, token=token)
index = SearchIndex.from_dict(schema, redis_client=client)
vectorizer = CustomVectorizer(embed=lambda text, **_: [float(len(text)), 1.0, 2.0, 3.0])
cache = SemanticCache("llm", vectorizer=vectorizer, redis_client=client, ttl=3600)
history = MessageHistory("chat", prefix="chat:", session_tag="user-1", redis_client=client)
embeddings = EmbeddingsCache(name="embeddings", redis_client=client)

aclient = keyleash.asyncio.Redis.from_url(url, token=token)
aindex = AsyncSearchIndex.from_dict(schema, redis_client=aclient)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # `delete` on the index is for `create(overwrite=True)` and `delete()`.
      - {allow: [read, write, delete], keys: ["docs:*"], indexes: [docs]}
      - {allow: [read, write, delete], keys: ["chat:*"], indexes: [chat]}
      # The index of the cache `llm` has the prefix `llm`, so the pattern is `llm*`: no other key
      # may begin so. `scan` is for `clear()`.
      - {allow: [read, write, delete, scan], keys: ["llm*"], indexes: [llm]}
      - {allow: [read, write, delete, scan], keys: ["embeddings:*"]}
""",
    has_modules=True,
    note="Write `:` at the end of prefixes: the keys stay the same, and the index has no others.",
)


def documents() -> list[dict[str, Any]]:
    return [
        {"id": str(n), "user": "ann" if n % 2 else "bob", "text": f"foo {n}", "age": n,
         "vector": np.array([n, 1, 2, 3], dtype=np.float32).tobytes()}
        for n in range(20)
    ]  # fmt: skip


VECTOR = [1.0, 1.0, 2.0, 3.0]


@every_way
def test_index_answers_queries(recipe: Any) -> None:
    """Index: create, load, queries by vectors, text and filters, fetch, drop"""
    index = recipe.index
    index.create(overwrite=True, drop=True)
    keys = index.load(documents(), id_field="id", ttl=1000)
    time.sleep(0.2)

    near = VectorQuery(VECTOR, "vector", num_results=3, filter_expression=Tag("user") == "ann")
    assert len(index.query(near)) == 3
    assert len(index.query(FilterQuery(filter_expression=Num("age") > 10))) == 9
    assert index.query(CountQuery(Tag("user") == "bob")) == 10
    assert index.query(VectorRangeQuery(VECTOR, "vector", distance_threshold=0.1))
    assert index.query(TextQuery("foo", "text", text_scorer="BM25STD", stopwords=None))
    hybrid = AggregateHybridQuery("foo", "text", VECTOR, "vector", stopwords=None)
    assert index.query(hybrid)
    assert [len(found) for found in index.batch_query([near, near])] == [3, 3]
    pages = index.paginate(FilterQuery(filter_expression=Tag("user") == "bob"), page_size=4)
    assert [len(page) for page in pages] == [4, 4, 2]
    assert index.fetch("3")["text"] == "foo 3"
    assert index.info()["num_docs"] == 20
    assert index.exists()
    assert index.drop_keys(keys[:2]) == 2
    assert index.clear() == 18
    index.delete(drop=True)
    assert not index.exists()


def test_indexes_are_listed(guarded: Any, recipe: Any) -> None:
    """`listall`: the granted indexes alone"""
    recipe.index.create()
    guarded.leash.admin.execute_command(
        "FT.CREATE", "other", "PREFIX", 1, "o:", "SCHEMA", "a", "TAG"
    )

    assert sorted(recipe.index.listall()) == ["chat", "docs", "llm"]


@every_way
def test_asyncio_index_answers_queries(recipe: Any) -> None:
    """Index for asyncio: the same"""

    async def use() -> Any:
        index = recipe.aindex
        await index.create(overwrite=True, drop=True)
        await index.load(documents(), id_field="id", ttl=1000)
        await asyncio.sleep(0.2)
        near = VectorQuery(VECTOR, "vector", num_results=3)
        found = [len(await index.query(near)), *map(len, await index.batch_query([near, near]))]
        hybrid = AggregateHybridQuery("foo", "text", VECTOR, "vector", stopwords=None)
        assert await index.query(hybrid)
        facts = await index.info()
        await index.delete(drop=True)
        exists = await index.exists()
        await recipe.aclient.aclose()
        return found, facts["num_docs"], exists

    assert asyncio.run(use()) == ([3, 3, 3], 20, False)


@every_way
def test_answers_are_cached(recipe: Any) -> None:
    """Semantic cache"""
    cache = recipe.cache
    cache.store("what is x", "y")
    time.sleep(0.2)

    assert cache.check("what is x")[0]["response"] == "y"
    cache.clear()
    cache.delete()


@every_way
def test_embeddings_are_cached(recipe: Any) -> None:
    """Embeddings cache, also for asyncio"""
    cache = recipe.embeddings
    cache.set("a", "model", [1.0, 2.0])
    cache.mset([{"content": "b", "model_name": "model", "embedding": [1.0]}])

    assert cache.get("a", "model")["embedding"] == [1.0, 2.0]
    cache.clear()
    assert cache.get("a", "model") is None

    async def use() -> Any:
        acache = recipe.EmbeddingsCache(name="embeddings", async_redis_client=recipe.aclient)
        await acache.aset("c", "model", [3.0])
        found = await acache.aget("c", "model")
        await recipe.aclient.aclose()
        return found["embedding"]

    assert asyncio.run(use()) == [3.0]


@every_way
def test_messages_are_kept(recipe: Any) -> None:
    """Message history"""
    history = recipe.history
    history.add_message({"role": "user", "content": "hi"})
    history.store("question", "answer")

    assert [item["content"] for item in history.messages] == ["hi", "question", "answer"]
    assert len(history.get_recent(top_k=2)) == 2
    history.drop()
    assert len(history.messages) == 2
