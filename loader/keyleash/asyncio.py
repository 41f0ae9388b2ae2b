"""The asyncio client and operator: `keyleash.asyncio.Redis` and `keyleash.asyncio.Operator`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keyleash.client.aio import Batch, Pipeline, connection_class, pool
from keyleash.client.asyncio import Redis, RedisCluster
from keyleash.client.correlation import correlation
from keyleash.client.once import once

if TYPE_CHECKING:
    from keyleash.api.operator import AsyncOperator as Operator

__all__ = [
    "Batch", "Operator", "Pipeline", "Redis", "RedisCluster", "connection_class", "correlation",
    "once", "pool",
]  # fmt: skip

for _public in (Batch, Pipeline, Redis, RedisCluster):
    _public.__module__ = __name__


if not TYPE_CHECKING:  # Otherwise every name would exist for type checkers.

    def __getattr__(name: str) -> Any:
        if name == "Operator":
            api = import_module("keyleash.extras").import_with_extra("keyleash.api.operator")
            api.AsyncOperator.__module__ = __name__
            return api.AsyncOperator
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
