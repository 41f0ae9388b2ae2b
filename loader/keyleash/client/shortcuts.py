"""Common commands without options, whose methods in redis-py take longer than the rest of a call.

Methods that only pass on their arguments, such as `get` and `lpush`, are redis-py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from itertools import chain
from typing import Any, TypeVar

from keyleash.client.actions import Words

ClientT = TypeVar("ClientT", bound=type)


def _expire(command: str) -> Callable[[Any, Any], Words | None]:
    return lambda name, time: (command, name, time) if type(time) is int else None


def _hset(name: Any, key: Any, value: Any) -> Words | None:
    return None if key is None else ("HSET", name, key, value)


def _zadd(name: Any, mapping: Any) -> Words | None:
    if not (isinstance(mapping, Mapping) and mapping):
        return None
    return ("ZADD", name, *(word for pair in mapping.items() for word in reversed(pair)))


def _xadd(name: Any, fields: Any) -> Words | None:
    is_plain = isinstance(fields, dict) and fields
    return ("XADD", name, "*", *chain.from_iterable(fields.items())) if is_plain else None


SHORTCUTS: dict[str, Callable[..., Words | None]] = {
    "set": lambda name, value: ("SET", name, value),
    "hset": _hset,
    "expire": _expire("EXPIRE"),
    "pexpire": _expire("PEXPIRE"),
    "zadd": _zadd,
    "xadd": _xadd,
}
"""By method: returns the command of these arguments, or None if redis-py's method is needed."""


def with_shortcuts(client: ClientT) -> ClientT:
    """Give a class of clients methods that take the shortcuts, if their arguments permit it."""
    for name, words_of in SHORTCUTS.items():
        setattr(client, name, _method(getattr(client, name), words_of))
    return client


def _method(own: Callable[..., Any], words_of: Callable[..., Words | None]) -> Callable[..., Any]:
    count = words_of.__code__.co_argcount

    @wraps(own)
    def method(self: Any, *args: Any, **options: Any) -> Any:
        words = words_of(*args) if len(args) == count and not options else None
        return own(self, *args, **options) if words is None else self.execute_command(*words)

    return method
