from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ["MEM0_TELEMETRY"] = "False"
pytest.importorskip("mem0")

from compat.conftest import every_way
from compat.page import Library

LIBRARY = Library(
    "mem0ai",
    recipe="""
from types import SimpleNamespace

from mem0.vector_stores import redis as stores
from redisvl.index import SearchIndex


def set_client(index, client):
    index._SearchIndex__redis_client = client


SearchIndex.set_client = set_client  # mem0 calls it, and RedisVL has it no more
client = keyleash.Redis.from_url(url, token=token)
stores.redis = SimpleNamespace(Redis=SimpleNamespace(from_url=lambda url: client))
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # Of the collection `memories`: mem0 drops its index at each start and makes it again.
      - {allow: [read, write, delete], keys: ["mem0:memories*"], indexes: [memories]}
""",
    note="Its extra `vector-stores` names redis-py before 6 as its dependency, but it works with"
    " newer ones: install `mem0ai` and `redisvl`. Through the gateway it takes the URL, and only"
    " `set_client` is needed. Set `MEM0_TELEMETRY=False`, or it makes an index `mem0migrations`."
    " With the extra `nlp` it also makes `memories_entities`.",
    has_modules=True,
)
TIME = "2026-01-01T00:00:00+00:00"


@every_way
def test_memories_are_found(recipe: Any) -> None:
    """Vector store: insert, search, get, list, update, delete, reset"""
    store = recipe.stores.RedisDB(recipe.url, "memories", 4)
    ann, bob = str(uuid.uuid4()), str(uuid.uuid4())
    store.insert(
        [[1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 3.0, 4.0]],
        [
            {"hash": "a", "data": "likes tea", "created_at": TIME, "user_id": "ann"},
            {"hash": "b", "data": "likes cats", "created_at": TIME, "user_id": "bob"},
        ],
        [ann, bob],
    )
    time.sleep(0.2)

    found = store.search("tea", [1.0, 2.0, 3.0, 4.0], top_k=5, filters={"user_id": "ann"})
    assert [item.payload["data"] for item in found] == ["likes tea"]
    assert store.get(ann).payload["data"] == "likes tea"
    assert len(store.list(filters={"user_id": "ann"}, top_k=10)[0]) == 1
    changed = {"hash": "a", "data": "likes milk", "created_at": TIME, "updated_at": TIME}
    store.update(ann, [1.0, 1.0, 1.0, 1.0], {**changed, "user_id": "ann"})
    assert store.get(ann).payload["data"] == "likes milk"
    store.delete(bob)
    assert store.list_cols() == ["memories"]
    store.reset()
    store.delete_col()


@every_way
def test_memory_remembers(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Memory`: add, search, get and delete"""
    from mem0 import Memory

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    store = {"redis_url": recipe.url, "collection_name": "memories", "embedding_model_dims": 4}
    memory = Memory.from_config(
        {
            "vector_store": {"provider": "redis", "config": store},
            "history_db_path": str(tmp_path / "history.db"),
        }
    )
    memory.embedding_model = SimpleNamespace(embed=lambda text, *_: [len(text), 1.0, 2.0, 3.0])
    added = memory.add("likes tea", user_id="ann", infer=False)["results"][0]
    time.sleep(0.2)

    assert memory.get(added["id"])["memory"] == "likes tea"
    found = memory.search("likes tea", filters={"user_id": "ann"})["results"]
    assert [item["memory"] for item in found] == ["likes tea"]
    memory.delete(added["id"])
    assert memory.get_all(filters={"user_id": "ann"})["results"] == []
