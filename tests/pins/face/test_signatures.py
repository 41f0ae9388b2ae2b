"""The public names of the package, and the signatures of what programs call."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import redis

import keyleash
import keyleash.asyncio
import keyleash.errors
import keyleash.testing
import keyleash.types
from support.golden import GOLDEN, assert_golden

NOUNS = ("audit", "limits", "policies", "tokens", "undo")


def signature(item: Any) -> str:
    """Return kinds, names and defaults of parameters; keyword-only ones by name."""
    parameters = [
        parameter.replace(annotation=parameter.empty)
        for parameter in inspect.signature(item).parameters.values()
    ]
    parameters.sort(key=lambda item: (item.kind, item.name * (item.kind is item.KEYWORD_ONLY)))
    return re.sub("<function .*?0x[0-9a-f]+>", "<function>", str(inspect.Signature(parameters)))


def public(names: Any) -> list[str]:
    return sorted(name for name in names if not name.startswith("_"))


def line(title: str, item: Any) -> str:
    """Return a name, with the parameters of a function that is not redis-py's."""
    is_ours = callable(item) and not hasattr(item, "__wrapped__") and is_of_keyleash(item)
    return title + (signature(item) if is_ours else "")


def is_of_keyleash(item: Any) -> bool:
    return str(getattr(item, "__module__", "")).partition(".")[0] == "keyleash"


def own_names(kind: type) -> list[str]:
    """Return the names that classes of keyleash give a class, with those of its fields."""
    names = {name for base in kind.__mro__ if is_of_keyleash(base) for name in vars(base)}
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return public({*names, *(field.name for field in fields)})


def methods_of(title: str, item: Any) -> Iterator[str]:
    """Yield the methods of an object as they are called, and its other attributes."""
    for name in public(dir(item)):
        yield f"{title}.{name}" + (
            signature(value) if callable(value := getattr(item, name)) else ""
        )


def lines_of(title: str, kind: type) -> Iterator[str]:
    """Yield the constructor of a class, and what classes of keyleash give it."""
    yield title + signature(kind)
    yield from (line(f"{title}.{name}", getattr(kind, name, None)) for name in own_names(kind))


def names_of(module: ModuleType) -> Iterator[str]:
    """Yield the names of a module: functions with parameters, and classes with their names."""
    for name in public(module.__all__):
        value = getattr(module, name)
        own = f": {' '.join(own_names(value))}" if isinstance(value, type) else ""
        yield f"{module.__name__}.{name}{own}" if own else line(f"{module.__name__}.{name}", value)


def signatures() -> Iterator[str]:
    client = redis.Redis()
    for face in (keyleash, keyleash.asyncio):
        title = face.__name__
        yield from (f"{title}.{name}" for name in public(face.__all__))
        yield f"{title}.Operator{signature(face.Operator)}"
        operator = face.Operator(client)
        yield from methods_of(f"{title}.Operator", operator)
        for noun in NOUNS:
            yield from methods_of(f"{title}.Operator.{noun}", getattr(operator, noun))
        for kind in (face.Redis, face.RedisCluster, face.Pipeline, face.Batch):
            yield from lines_of(f"{title}.{kind.__name__}", kind)
        for function in (face.connection_class, face.correlation, face.once, face.pool):
            yield f"{title}.{function.__name__}{signature(function)}"
    for kind in (keyleash.Policy, keyleash.TokenFile, keyleash.WhoAmI, keyleash.RemainingLimit):
        yield from lines_of(f"keyleash.{kind.__name__}", kind)
    yield f"keyleash.is_guarded{signature(keyleash.is_guarded)}"
    for module in (keyleash.types, keyleash.errors, keyleash.testing):
        yield from names_of(module)


def test_public_names_and_signatures_are_those_of_the_golden_file() -> None:
    """A rename, another default or a lost method breaks programs of users."""
    assert_golden(GOLDEN / "face" / "signatures.txt", "\n".join(signatures()) + "\n")
