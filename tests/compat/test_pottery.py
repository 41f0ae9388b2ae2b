from __future__ import annotations

from typing import Any

import pytest
from pottery import NextID, RedisCounter, RedisList, RedisSet, Redlock

from compat.conftest import Guarded, every_scheme
from compat.page import Library
from compat.scripts import scripts_of

LIBRARY = Library(
    "pottery",
    recipe="""
from pottery import RedisDict

items = RedisDict(redis=redis.Redis(connection_pool=keyleash.pool(url, token)), key="items")
""",
    policy="""
version: 1
scripts:
  redlock-1: {file: 1.lua}
  redlock-2: {file: 2.lua}
  redlock-3: {file: 3.lua}
  next-id: {file: 4.lua}
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: [items, "items:*"]}
      - allow: [read, write, delete]
        keys: ["redlock:*"]
        scripts: [redlock-1, redlock-2, redlock-3]
      - {allow: [read, write], keys: ["nextid:*"], scripts: [next-id]}
""",
    scripts=scripts_of("pottery.redlock", "pottery.nextid"),
    texts="the texts that `Redlock` (three) and `NextID` (one) register, as in their modules",
    note="By a Unix socket pottery itself updates no containers: it looks for a host.",
)


@pytest.mark.parametrize("guarded", ["redis", "rediss"], indirect=True)
def test_containers_hold_values(recipe: Any, guarded: Guarded) -> None:
    """Dicts, lists, sets and counters"""
    client = guarded.client()
    numbers = recipe.items
    numbers.update({"a": 1, "b": 2})
    items = RedisList([1, 2], redis=client, key="items:l")
    items.append(3)
    counter = RedisCounter("aab", redis=client, key="items:c")

    assert numbers.to_dict() == {"a": 1, "b": 2}
    assert list(items) == [1, 2, 3]
    assert RedisSet({1, 2}, redis=client, key="items:s").to_set() == {1, 2}
    assert counter["a"] == 2


@every_scheme
def test_redlock_excludes(guarded: Guarded) -> None:
    """Redlock"""
    lock = Redlock(key="l", masters={guarded.client()}, auto_release_time=5)
    assert lock.acquire(blocking=False)
    assert not Redlock(key="l", masters={guarded.client()}).acquire(blocking=False)
    lock.release()


def test_ids_are_unique(guarded: Guarded) -> None:
    """NextID"""
    ids = NextID(key="ids", masters={guarded.client()})

    assert [next(ids), next(ids)] == [1, 2]
