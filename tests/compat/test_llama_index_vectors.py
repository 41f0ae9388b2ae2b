from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

pytest.importorskip("llama_index.vector_stores.redis")

from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import ExactMatchFilter, MetadataFilters, VectorStoreQuery

from compat.conftest import every_way
from compat.page import Library

LIBRARY = Library(
    "llama-index-vector-stores-redis",
    recipe="""
from llama_index.vector_stores.redis import RedisVectorStore
from redisvl.schema import IndexSchema

schema = IndexSchema.from_dict(
    {
        "index": {"name": "docs", "prefix": "docs:"},
        "fields": [
            {"name": "id", "type": "tag"},
            {"name": "doc_id", "type": "tag"},
            {"name": "text", "type": "text"},
            {"name": "user", "type": "tag"},
            {"name": "vector", "type": "vector", "attrs": {"dims": 4, "algorithm": "flat"}},
        ],
    }
)
client = keyleash.Redis.from_url(url, token=token)
aclient = keyleash.asyncio.Redis.from_url(url, token=token)
store = RedisVectorStore(schema=schema, redis_client=client, redis_client_async=aclient)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # `delete` on the index is for `delete_index()` and `overwrite=True`.
      - {allow: [read, write, delete], keys: ["docs:*"], indexes: [docs]}
""",
    note="It names RedisVL before 0.5, and with it redis-py before 7, but works with newer ones:"
    " install it with `pip install --no-deps`, after `llama-index-core` and `redisvl`."
    " Pass an asyncio client too: it would make one of its own, without a guard.",
    has_modules=True,
)


def nodes() -> list[TextNode]:
    return [
        TextNode(
            text=f"text {n}",
            embedding=[1.0, 2.0, 3.0, float(n)],
            metadata={"user": "ann"},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="document")},
        )
        for n in range(3)
    ]


def query() -> VectorStoreQuery:
    return VectorStoreQuery(
        query_embedding=[1.0, 2.0, 3.0, 1.0],
        similarity_top_k=2,
        filters=MetadataFilters(filters=[ExactMatchFilter(key="user", value="ann")]),
    )


@every_way
def test_nodes_are_found(recipe: Any) -> None:
    """Vector store: add, query with filters, delete"""
    store = recipe.store
    store.add(nodes())
    time.sleep(0.2)

    assert store.query(query()).nodes[0].text == "text 1"
    store.delete("document")
    time.sleep(0.2)
    assert store.query(query()).nodes == []
    store.delete_index()


@every_way
def test_nodes_are_found_with_asyncio(recipe: Any) -> None:
    """Vector store for asyncio: the same"""

    async def use() -> Any:
        store = recipe.store
        await store.async_add(nodes())
        await asyncio.sleep(0.2)
        found = (await store.aquery(query())).nodes
        await store.adelete("document")
        await asyncio.sleep(0.2)
        rest = (await store.aquery(query())).nodes
        await store.async_delete_index()
        await recipe.aclient.aclose()
        return len(found), rest

    assert asyncio.run(use()) == (2, [])
