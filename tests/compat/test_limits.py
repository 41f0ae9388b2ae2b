from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import flask
import flask_limiter
import limits.aio.strategies
import limits.strategies
import pytest
import slowapi
import slowapi.errors
from flask_limiter.util import get_remote_address
from starlette.requests import Request

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "limits, Flask-Limiter, slowapi",
    recipe="""
from limits import parse
from limits.aio.storage import RedisStorage as AsyncRedisStorage
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter

storage = RedisStorage("redis://", connection_pool=keyleash.pool(url, token))
limiter = MovingWindowRateLimiter(storage)
pool = keyleash.asyncio.pool(url, token)
astorage = AsyncRedisStorage(
    "async+redis://", implementation="redispy", connection_pool=pool
)
# Flask-Limiter and slowapi:
options = {"connection_pool": keyleash.pool(url, token)}
settings = {"storage_uri": "redis://", "storage_options": options}
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # `scan` is for `reset`.
      - {allow: [read, write, delete, scan], keys: ["LIMITS:*"], scripts: [limits]}
""",
    note="A given pool takes the place of the storage's URL, which has to name Redis.",
)


@every_scheme
@pytest.mark.parametrize("kind", ["FixedWindow", "MovingWindow", "SlidingWindowCounter"])
def test_calls_are_limited(recipe: Any, kind: str) -> None:
    """Each strategy: hit, test, statistics, clear and reset"""
    limiter = getattr(limits.strategies, f"{kind}RateLimiter")(recipe.storage)
    twice = recipe.parse("2/minute")

    assert [limiter.hit(twice, "a") for _ in range(3)] == [True, True, False]
    assert not limiter.test(twice, "a")
    assert limiter.get_window_stats(twice, "a").remaining == 0
    limiter.clear(twice, "a")
    assert limiter.hit(twice, "a")
    recipe.storage.reset()
    assert limiter.get_window_stats(twice, "a").remaining == 2


@every_scheme
def test_asyncio_calls_are_limited(recipe: Any) -> None:
    """Strategies for asyncio"""
    limiter = limits.aio.strategies.MovingWindowRateLimiter(recipe.astorage)
    twice = recipe.parse("2/minute")

    async def use() -> list[bool]:
        return [await limiter.hit(twice, "a") for _ in range(3)]

    assert asyncio.run(use()) == [True, True, False]


@pytest.mark.parametrize("kind", ["fixed-window", "moving-window", "sliding-window-counter"])
def test_views_of_flask_are_limited(recipe: Any, kind: str) -> None:
    """Flask-Limiter"""
    app = flask.Flask("app")
    limiter = flask_limiter.Limiter(
        get_remote_address, app=app, default_limits=["2/minute"], strategy=kind, **recipe.settings
    )

    @app.get("/")
    def view() -> str:
        return ""

    with app.test_client() as client:
        assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]
    assert limiter.storage.check()


def test_routes_of_starlette_are_limited(recipe: Any) -> None:
    """slowapi"""
    limiter = slowapi.Limiter(key_func=lambda: "a", **recipe.settings)
    app = SimpleNamespace(state=SimpleNamespace(limiter=limiter))

    @limiter.limit("2/minute")
    def view(request: Request) -> str:
        return ""

    def call() -> Any:
        scope = {"type": "http", "path": "/", "app": app, "headers": [], "method": "GET"}
        return view(Request(scope))

    assert [call(), call()] == ["", ""]
    with pytest.raises(slowapi.errors.RateLimitExceeded):
        call()
