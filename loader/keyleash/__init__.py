"""Scoped, short-lived, budgeted and audited credentials for autonomous agents, enforced in Redis.

Agents use `keyleash.Redis` in place of `redis.Redis`, or `keyleash.asyncio.Redis` in place of
`redis.asyncio.Redis`; operators use the `keyleash` command.
"""

from keyleash import asyncio, errors
from keyleash.client import (
    Batch,
    Pipeline,
    Redis,
    RemainingLimit,
    TokenFile,
    WhoAmI,
    correlation,
)
from keyleash.errors import *  # noqa: F403 - its `__all__` is the list

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Pipeline",
    "Redis",
    "RemainingLimit",
    "TokenFile",
    "WhoAmI",
    "asyncio",
    "correlation",
]
__all__ += errors.__all__

for _name in __all__:
    _public = globals()[_name]
    if isinstance(_public, type):
        # Tracebacks and documentation name the place from which programs import it.
        _public.__module__ = __name__
