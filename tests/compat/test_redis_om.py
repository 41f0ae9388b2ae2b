from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

pytest.importorskip("redis_om")

from compat.conftest import every_way
from compat.page import Library

LIBRARY = Library(
    "redis-om",
    recipe="""
from redis_om import Field, HashModel, JsonModel, Migrator

client = keyleash.Redis.from_url(url, token=token, decode_responses=True)


class Person(JsonModel, index=True):
    name: str = Field(index=True)
    age: int = Field(index=True, sortable=True)

    class Meta:
        database = client
        global_key_prefix = "om"
        model_key_prefix = "person"


class Visit(HashModel, index=True):
    name: str = Field(index=True)

    class Meta:
        database = client
        global_key_prefix = "om"
        model_key_prefix = "visit"


Migrator().run()
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # `delete` on the indexes is for changed models, `scan` for `all_pks()`.
      - allow: [read, write, delete, scan]
        keys: ["om:person:*", "om:visit:*"]
        indexes: ["om:person:index", "om:visit:index"]
""",
    has_modules=True,
)


@every_way
def test_models_are_found(recipe: Any) -> None:
    """Models as JSON and as hashes: save, find, update, expire, delete"""
    person = recipe.Person(name="ann", age=3)
    person.save()
    person.expire(100)
    recipe.Visit(name="bob").save()
    time.sleep(0.2)

    find = recipe.Person.find
    assert [found.name for found in find(recipe.Person.name == "ann").all()] == ["ann"]
    assert find(recipe.Person.age > 2).sort_by("age").first().pk == person.pk
    assert find(recipe.Person.name == "ann").count() == 1
    assert recipe.Visit.find(recipe.Visit.name == "bob").all()
    person.update(age=4)
    assert recipe.Person.get(person.pk).age == 4
    assert list(recipe.Person.all_pks()) == [person.pk]
    recipe.Person.delete(person.pk)
    assert find(recipe.Person.name == "zoe").count() == 0


@every_way
def test_models_are_found_with_asyncio(guarded: Any) -> None:
    """Models for asyncio: the same"""
    import aredis_om

    async def use() -> Any:
        client = guarded.keyleash.asyncio.Redis.from_url(
            guarded.url, token=guarded.token, decode_responses=True
        )

        class Person(aredis_om.JsonModel, index=True):  # type: ignore[call-arg, misc]
            name: str = aredis_om.Field(index=True)

            class Meta:
                database = client
                global_key_prefix = "om"
                model_key_prefix = "person"

        await aredis_om.Migrator().run()
        person = Person(name="ann")
        await person.save()
        await asyncio.sleep(0.2)
        found = await Person.find(Person.name == "ann").all()
        await Person.delete(person.pk)
        await client.aclose()
        return [item.name for item in found]

    assert asyncio.run(use()) == ["ann"]
