from __future__ import annotations

from cachelib import RedisCache

from compat.conftest import Guarded

LIBRARY = "cachelib"
CLIENT = """
from cachelib import RedisCache

client = redis.Redis(connection_pool=keyleash.pool(url, token))
cache = RedisCache(host=client, key_prefix="cache:")
"""


def test_values_are_cached(guarded: Guarded) -> None:
    """Get, set, add, increment, delete, many at once"""
    cache = RedisCache(host=guarded.client(), key_prefix="cache:")

    assert cache.set("a", {"b": 1}, timeout=60)
    assert cache.get("a") == {"b": 1}
    assert not cache.add("a", 2)
    assert cache.inc("n", 2) == 2
    assert cache.set_many({"x": 1, "y": 2})
    assert cache.get_dict("x", "y") == {"x": 1, "y": 2}
    assert cache.delete_many("x", "y")
    assert not cache.has("x")


def test_prefix_is_cleared(guarded: Guarded) -> None:
    """Clear the keys of the prefix"""
    cache = RedisCache(host=guarded.client(), key_prefix="cache:")
    cache.set("a", 1)
    assert cache.clear()
    assert cache.get("a") is None
