"""Common commands without options, whose methods in redis-py take longer than the rest of a call.

Methods that only pass on their arguments, such as `get` and `lpush`, are redis-py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from keyleash.client.actions import Words

ClientT = TypeVar("ClientT", bound=type)


class Shortcut(NamedTuple):
    """A command that its method makes of a number of positional arguments.

    Attributes:
        command: Its name.
        arity: The number of arguments.
        words: Returns the words behind the name, or None if redis-py's own method is needed. By
            default the arguments are the words.
    """

    command: str
    arity: int
    words: Callable[..., Words | None] | None = None


def _field(name: Any, key: Any, value: Any) -> Words | None:
    return None if key is None else (name, key, value)


def _seconds(name: Any, time: Any) -> Words | None:
    return (name, time) if type(time) is int else None


def _scores(name: Any, mapping: Any) -> Words | None:
    if not (isinstance(mapping, Mapping) and mapping):
        return None
    return (name, *(word for member, score in mapping.items() for word in (score, member)))


def _entry(name: Any, fields: Any) -> Words | None:
    is_plain = isinstance(fields, dict) and fields
    return (name, "*", *chain.from_iterable(fields.items())) if is_plain else None


SHORTCUTS = {
    "set": Shortcut("SET", 2),
    "hset": Shortcut("HSET", 3, _field),
    "expire": Shortcut("EXPIRE", 2, _seconds),
    "pexpire": Shortcut("PEXPIRE", 2, _seconds),
    "zadd": Shortcut("ZADD", 2, _scores),
    "xadd": Shortcut("XADD", 2, _entry),
}
"""The shortcut of each method."""


def with_shortcuts(client: ClientT) -> ClientT:
    """Give a class of clients methods that take the shortcuts, if their arguments permit it."""
    for name, shortcut in SHORTCUTS.items():
        setattr(client, name, _method(getattr(client, name), shortcut))
    return client


def _method(own: Callable[..., Any], shortcut: Shortcut) -> Callable[..., Any]:
    command, arity, words_of = shortcut

    @wraps(own)
    def method(self: Any, *args: Any, **options: Any) -> Any:
        if len(args) == arity and not options:
            words = args if words_of is None else words_of(*args)
            if words is not None:
                return self.execute_command(command, *words)
        return own(self, *args, **options)

    return method
