"""The correlation id that ties an agent's commands to the request they serve."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count

_current: ContextVar[str | None] = ContextVar("keyleash_correlation", default=None)


@contextmanager
def correlation(correlation_id: str) -> Iterator[str]:
    """Give every guarded call inside the block *correlation_id*, up to 256 bytes of it.

    It follows threads and tasks as context variables do: an asyncio task inherits it, a
    new thread does not.
    """
    before = _current.set(correlation_id)
    try:
        yield correlation_id
    finally:
        _current.reset(before)


def correlation_source() -> Callable[[], str]:
    """Make a function that gives the id of the next call: the block's, else a new one.

    New ids are a random prefix and a count: unique across clients, and cheap.
    """
    prefix = secrets.token_hex(6)
    numbers = count(1)

    def next_id() -> str:
        given = _current.get()
        return given if given is not None else f"{prefix}-{next(numbers)}"

    return next_id
