from __future__ import annotations

from typing import Any

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "cachelib",
    recipe="""
from cachelib import RedisCache

client = redis.Redis(connection_pool=keyleash.pool(url, token))
cache = RedisCache(host=client, key_prefix="cache:")
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # `scan` is for `clear`.
      - {allow: [read, write, delete, scan], keys: ["cache:*"]}
""",
)


@every_scheme
def test_values_are_cached(recipe: Any) -> None:
    """Get, set, add, increment, delete, many at once"""
    cache = recipe.cache

    assert cache.set("a", {"b": 1}, timeout=60)
    assert cache.get("a") == {"b": 1}
    assert not cache.add("a", 2)
    assert cache.inc("n", 2) == 2
    assert cache.set_many({"x": 1, "y": 2})
    assert cache.get_dict("x", "y") == {"x": 1, "y": 2}
    assert cache.delete_many("x", "y")
    assert not cache.has("x")


def test_prefix_is_cleared(recipe: Any) -> None:
    """Clear the keys of the prefix"""
    recipe.cache.set("a", 1)
    assert recipe.cache.clear()
    assert recipe.cache.get("a") is None
