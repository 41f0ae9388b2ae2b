from __future__ import annotations

from typing import Any

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "python-redis-lock",
    recipe="""
import redis_lock

client = redis.Redis(connection_pool=keyleash.pool(url, token))
lock = redis_lock.Lock(client, "report", expire=60)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - allow: [read, write, delete]
        keys: ["lock:*", "lock-signal:*"]
        scripts: [python-redis-lock]
""",
)


@every_scheme
def test_lock_excludes(recipe: Any) -> None:
    """Acquire, wait, extend, release, reset"""
    with recipe.lock:
        other = recipe.redis_lock.Lock(recipe.client, "report", expire=60)
        assert not other.acquire(blocking=False)
        assert not other.acquire(timeout=1)
        recipe.lock.extend(120)
        assert recipe.lock.locked()
    assert other.acquire(timeout=60)
    other.reset()
    assert not other.locked()
