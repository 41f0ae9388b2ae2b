from __future__ import annotations

from pottery import NextID, RedisCounter, RedisDict, RedisList, RedisSet, Redlock

from compat.conftest import Guarded
from compat.scripts import scripts_of

LIBRARY = "pottery"
SCRIPTS = scripts_of("pottery.redlock", "pottery.nextid")
TEXTS = "the texts that `Redlock` (three) and `NextID` (one) register, as their modules have them"
CLIENT = """
from pottery import RedisDict

items = RedisDict(redis=redis.Redis(connection_pool=keyleash.pool(url, token)), key="items")
"""


def test_containers_hold_values(guarded: Guarded) -> None:
    """Dicts, lists, sets and counters"""
    client = guarded.client()
    numbers = RedisDict({"a": 1}, redis=client, key="d")
    numbers["b"] = 2
    items = RedisList([1, 2], redis=client, key="l")
    items.append(3)
    counter = RedisCounter("aab", redis=client, key="c")

    assert numbers.to_dict() == {"a": 1, "b": 2}
    assert list(items) == [1, 2, 3]
    assert RedisSet({1, 2}, redis=client, key="s").to_set() == {1, 2}
    assert counter["a"] == 2


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
