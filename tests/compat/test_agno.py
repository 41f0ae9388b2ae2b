from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("agno.db.redis")

from agno.db.base import SessionType
from agno.db.schemas import UserMemory
from agno.session import AgentSession

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "agno",
    recipe="""
from agno.agent import Agent
from agno.db.redis import RedisDb

client = redis.Redis(connection_pool=keyleash.pool(url, token, decode_responses=True))
db = RedisDb(redis_client=client)
agent = Agent(db=db)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete, scan], keys: ["agno:*"]}
""",
)


@every_scheme
def test_sessions_are_stored(recipe: Any) -> None:
    """Sessions: store, read, list, rename and delete"""
    db = recipe.db
    db.upsert_session(AgentSession(session_id="s", agent_id="a", user_id="u", session_data={}))
    kind = SessionType.AGENT

    assert db.get_session("s", kind).agent_id == "a"
    assert [item.session_id for item in db.get_sessions(kind, user_id="u")] == ["s"]
    db.rename_session("s", kind, "new")
    assert db.get_session("s", kind).session_data["session_name"] == "new"
    db.delete_session("s")
    assert db.get_session("s", kind) is None


def test_memories_are_stored(recipe: Any) -> None:
    """Memories of users: store, read, topics and delete"""
    db = recipe.db
    memory = UserMemory(memory="likes tea", memory_id="m", user_id="u", topics=["tea"])
    db.upsert_user_memory(memory)

    assert db.get_user_memory("m").memory == "likes tea"
    assert db.get_all_memory_topics() == ["tea"]
    db.delete_user_memory("m")
    assert db.get_user_memories(user_id="u") == []
