from __future__ import annotations

import asyncio
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "langgraph-checkpoint-plainredis",
    recipe="""
from langgraph_checkpoint_plainredis import AsyncRedisSaver, RedisSaver

saver = RedisSaver(redis.Redis(connection_pool=keyleash.pool(url, token)))
pool = keyleash.asyncio.pool(url, token)
asaver = AsyncRedisSaver(redis.asyncio.Redis(connection_pool=pool))
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["lg:*"]}
""",
)
CONFIG: Any = {"configurable": {"thread_id": "1"}}


class State(TypedDict):
    count: int


def graph(saver: Any) -> Any:
    def add(state: State) -> State:
        return {"count": state["count"] + 1}

    builder = StateGraph(State)
    builder.add_node("add", add)
    builder.add_edge(START, "add")
    builder.add_edge("add", END)
    return builder.compile(checkpointer=saver)


@every_scheme
def test_graph_keeps_its_checkpoints(recipe: Any) -> None:
    """Sync saver: write, read, list and delete checkpoints"""
    saver = recipe.saver
    compiled = graph(saver)
    compiled.invoke({"count": 1}, CONFIG)

    assert compiled.get_state(CONFIG).values == {"count": 2}
    assert len(list(compiled.get_state_history(CONFIG))) >= 2
    saver.delete_thread("1")
    assert list(saver.list(CONFIG)) == []


@every_scheme
def test_asyncio_graph_keeps_its_checkpoints(recipe: Any) -> None:
    """Async saver: write, read, list and delete checkpoints"""

    async def use() -> Any:
        saver = recipe.asaver
        compiled = graph(saver)
        await compiled.ainvoke({"count": 1}, CONFIG)
        state = await compiled.aget_state(CONFIG)
        history = [item async for item in compiled.aget_state_history(CONFIG)]
        await saver.adelete_thread("1")
        return state.values, len(history) >= 2, [item async for item in saver.alist(CONFIG)]

    assert asyncio.run(use()) == ({"count": 2}, True, [])
