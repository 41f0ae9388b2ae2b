from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import walrus
from walrus import Database

from compat.conftest import Guarded

LIBRARY = "walrus"
SCRIPTS = [path.read_text() for path in sorted(Path(walrus.__file__).parent.glob("scripts/*.lua"))]
TEXTS = "the texts of `walrus/scripts/*.lua`, as installed"
CLIENT = """
import walrus
from walrus import Database

database = Database(connection_pool=keyleash.pool(url, token))
"""


@pytest.fixture
def database(guarded: Guarded) -> Any:
    return Database(connection_pool=guarded.pool())


def test_containers_hold_values(database: Any) -> None:
    """Hashes, lists, sets and sorted sets"""
    database.Hash("h").update(a=1)
    database.List("l").extend(["a", "b"])
    database.Set("s").add("a", "b")
    database.ZSet("z").add({"a": 1, "b": 2})

    assert database.Hash("h").as_dict(decode=True) == {"a": "1"}
    assert list(database.List("l")) == [b"a", b"b"]
    assert database.Set("s").members() == {b"a", b"b"}
    assert database.ZSet("z").score("b") == 2


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
