"""Scoped, short-lived, budgeted and audited credentials for autonomous agents, enforced in Redis.

Agents use `keyleash.Redis` in place of `redis.Redis`, or `keyleash.asyncio.Redis` in place of
`redis.asyncio.Redis`; on a cluster the `RedisCluster` of the same modules. Libraries that take a
pool or a connection class use those of `keyleash.pool` and `keyleash.connection_class`. Operators
use the `keyleash` command, or `keyleash.Operator` and `keyleash.Policy` in their programs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keyleash import asyncio, errors
from keyleash.client._sync.cluster import RedisCluster
from keyleash.client._sync.sync import Batch, Pipeline, Redis, connection_class, pool
from keyleash.client.correlation import correlation
from keyleash.client.once import once
from keyleash.client.pools import is_guarded
from keyleash.client.tokens import TokenFile
from keyleash.client.whoami import RemainingLimit, WhoAmI
from keyleash.errors import *  # noqa: F403 - its `__all__` is the list

if TYPE_CHECKING:
    from keyleash.api import Operator, Policy

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Operator",
    "Pipeline",
    "Policy",
    "Redis",
    "RedisCluster",
    "RemainingLimit",
    "TokenFile",
    "WhoAmI",
    "asyncio",
    "connection_class",
    "correlation",
    "is_guarded",
    "once",
    "pool",
]
if not TYPE_CHECKING:  # Type checkers read literal lists only.
    __all__ += errors.__all__

for _name in __all__:
    _public = globals().get(_name)
    if isinstance(_public, type):
        # Tracebacks and documentation name the place from which programs import it.
        _public.__module__ = __name__


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", "__all__", "__doc__"})


if not TYPE_CHECKING:  # Otherwise every name would exist for type checkers.

    def __getattr__(name: str) -> Any:
        # Agents need neither, nor the libraries that they need.
        if name in {"Operator", "Policy"}:
            return getattr(import_module("keyleash.extras").import_with_extra("keyleash.api"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
