from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import walrus

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "walrus",
    recipe="""
from walrus import Database

database = Database(connection_pool=keyleash.pool(url, token))
""",
    policy="""
version: 1
scripts:
  lock-acquire: {file: 1.lua}
  lock-release: {file: 2.lua}
identities:
  agent-runner:
    kind: machine
    grants:
      # Containers `app:…`, the cache `cache`, locks, and the autocomplete `autocomplete`.
      - allow: [read, write, delete]
        keys: ["app:*", "cache:*", "lock:*", "lock.event:*", "autocomplete:*"]
        scripts: [lock-acquire, lock-release]
""",
    scripts=[
        path.read_text() for path in sorted(Path(walrus.__file__).parent.glob("scripts/lock_*.lua"))
    ],
    texts="the texts of `walrus/scripts/lock_*.lua`, as installed, for locks alone",
)


@pytest.fixture
def database(recipe: Any) -> Any:
    return recipe.database


@every_scheme
def test_containers_hold_values(database: Any) -> None:
    """Hashes, lists, sets and sorted sets"""
    database.Hash("app:h").update(a=1)
    database.List("app:l").extend(["a", "b"])
    database.Set("app:s").add("a", "b")
    database.ZSet("app:z").add({"a": 1, "b": 2})

    assert database.Hash("app:h").as_dict(decode=True) == {"a": "1"}
    assert list(database.List("app:l")) == [b"a", b"b"]
    assert database.Set("app:s").members() == {b"a", b"b"}
    assert database.ZSet("app:z").score("b") == 2


def test_values_are_cached(database: Any) -> None:
    """Cache"""
    cache = database.cache()
    cache.set("a", {"b": 1}, 60)

    assert cache.get("a") == {"b": 1}


def test_lock_excludes(database: Any) -> None:
    """Locks"""
    lock = database.lock("l", ttl=5000)
    assert lock.acquire(block=False)
    assert not database.lock("l", ttl=5000).acquire(block=False)
    assert lock.release()


def test_autocomplete_finds_titles(database: Any) -> None:
    """Autocomplete"""
    titles = database.autocomplete()
    titles.store("guarded title")

    assert list(titles.search("guar")) == ["guarded title"]
