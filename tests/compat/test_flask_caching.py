from __future__ import annotations

from typing import Any

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "Flask-Caching",
    recipe="""
from flask import Flask
from flask_caching import Cache

app = Flask("app")
app.config["CACHE_TYPE"] = "RedisCache"
app.config["CACHE_KEY_PREFIX"] = "cache:"
app.config["CACHE_REDIS_HOST"] = redis.Redis(connection_pool=keyleash.pool(url, token))
cache = Cache(app)
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
def test_values_and_views_are_cached(recipe: Any) -> None:
    """Get, set, many at once, cached and memoized functions, clear"""
    cache, calls = recipe.cache, []

    @cache.memoize(60)
    def double(number: int) -> int:
        calls.append(number)
        return number * 2

    @recipe.app.get("/")
    @cache.cached(60)
    def view() -> str:
        calls.append(0)
        return "x"

    with recipe.app.app_context():
        cache.set_many({"a": 1, "b": 2})
        assert cache.get_dict("a", "b") == {"a": 1, "b": 2}
        assert [double(1), double(1)] == [2, 2]
        cache.delete_memoized(double)
        client = recipe.app.test_client()
        assert [client.get("/").text, client.get("/").text] == ["x", "x"]
        assert calls == [1, 0]
        assert cache.clear()
        assert cache.get("a") is None
