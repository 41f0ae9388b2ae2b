"""The Lua scripts of installed libraries."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import CodeType
from typing import Any


def scripts_of(*modules: str) -> list[str]:
    """Return the texts of the scripts in modules: constants, also of their functions."""
    texts = (text for name in modules for text in _texts(import_module(name)))
    return [text for text in dict.fromkeys(texts) if "redis.call" in text]


def _texts(module: Any) -> Iterator[str]:
    for value in vars(module).values():
        for item in value.values() if isinstance(value, dict) else (value,):
            if isinstance(item, str | bytes):
                yield item if isinstance(item, str) else item.decode()
        if getattr(value, "__module__", "") == module.__name__:
            for item in (value, *vars(value).values()):
                yield from _constants(getattr(item, "__code__", None))


def _constants(code: CodeType | None) -> Iterator[str]:
    for value in code.co_consts if code else ():
        if isinstance(value, str):
            yield value
        elif isinstance(value, CodeType):
            yield from _constants(value)
