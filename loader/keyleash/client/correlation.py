"""The correlation id that ties an agent's commands to the request they serve."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import TypeAlias, TypeVar

from keyleash.store.token import reject_tokens

CorrelationSource: TypeAlias = str | Callable[[], str | None]
SourceT = TypeVar("SourceT", bound=CorrelationSource)

_prefix: str
_numbers: count[int]
_current: ContextVar[CorrelationSource | None] = ContextVar("keyleash_correlation", default=None)


@contextmanager
def correlation(correlation_id: SourceT) -> Iterator[SourceT]:
    """Give every guarded call inside the block *correlation_id*, up to 256 bytes of it.

    A callable is called for each call, such as one that returns the id of the current trace; if
    it returns None, the call gets a new id.

    It follows threads and tasks as context variables do: an asyncio task inherits it, a
    new thread does not.

    Raises:
        SecretInTextError: *correlation_id* contains a token; events repeat it.
        TypeError: it is neither a str nor callable.
    """
    before = _current.set(check_source(correlation_id))
    try:
        yield correlation_id
    finally:
        _current.reset(before)


def check_source(source: CorrelationSource | None) -> CorrelationSource | None:
    """Return *source*; errors as for `correlation`."""
    if isinstance(source, str):
        reject_tokens(correlation_id=source)
    elif source is not None and not callable(source):
        raise TypeError(f"the correlation id must be a str, not {type(source).__name__}")
    return source


def next_correlation(default: CorrelationSource | None = None) -> str:
    """Return the id of the next call: the block's, else that of *default*, else a new one."""
    current = _current.get()
    if current is None and default is None:
        return f"{_prefix}-{next(_numbers)}"
    if not isinstance(current, str):
        current = given_correlation(default)
    return current if current is not None else new_correlation()


def given_correlation(default: CorrelationSource | None = None) -> str | None:
    """Return the id of the current block, else that of *default*; None if there is none."""
    source = _current.get()
    if source is None:
        source = default
    if source is None or isinstance(source, str):
        return source
    correlation = source()
    if not (correlation is None or isinstance(correlation, str)):
        raise TypeError(f"the correlation id must be a str, not {type(correlation).__name__}")
    reject_tokens(correlation_id=correlation)
    return correlation


def new_correlation() -> str:
    """Return a random prefix and a count: unique across processes, and cheap."""
    return f"{_prefix}-{next(_numbers)}"


def _begin() -> None:
    global _prefix, _numbers  # noqa: PLW0603 - a lock and an object would cost each call
    _prefix = secrets.token_hex(6)
    _numbers = count(1)


_begin()
# Otherwise forked processes would use the same ids for different calls.
os.register_at_fork(after_in_child=_begin)
