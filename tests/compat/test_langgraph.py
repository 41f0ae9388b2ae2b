from __future__ import annotations

import asyncio
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph_checkpoint_plainredis import AsyncRedisSaver, RedisSaver

from compat.conftest import Guarded

LIBRARY = "langgraph-checkpoint-plainredis"
CLIENT = """
from langgraph_checkpoint_plainredis import RedisSaver

saver = RedisSaver(redis.Redis(connection_pool=keyleash.pool(url, token)))
"""
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


def test_graph_keeps_its_checkpoints(guarded: Guarded) -> None:
    """Sync saver: write, read, list and delete checkpoints"""
    saver = RedisSaver(guarded.client())
    compiled = graph(saver)
    compiled.invoke({"count": 1}, CONFIG)

    assert compiled.get_state(CONFIG).values == {"count": 2}
    assert len(list(compiled.get_state_history(CONFIG))) >= 2
    saver.delete_thread("1")
    assert list(saver.list(CONFIG)) == []


def test_asyncio_graph_keeps_its_checkpoints(guarded: Guarded) -> None:
    """Async saver: write, read, list and delete checkpoints"""

    async def use() -> Any:
        saver = AsyncRedisSaver(guarded.aclient())
        compiled = graph(saver)
        await compiled.ainvoke({"count": 1}, CONFIG)
        state = await compiled.aget_state(CONFIG)
        history = [item async for item in compiled.aget_state_history(CONFIG)]
        await saver.adelete_thread("1")
        return state.values, len(history) >= 2, [item async for item in saver.alist(CONFIG)]

    assert asyncio.run(use()) == ({"count": 2}, True, [])
