"""Scoped, short-lived, budgeted and audited credentials for autonomous agents, enforced in Redis.

Agents use `keyleash.Redis` in place of `redis.Redis`, or `keyleash.asyncio.Redis` in place of
`redis.asyncio.Redis`; on a cluster the `RedisCluster` of the same modules. Libraries that take a
pool or a connection class use those of `keyleash.pool` and `keyleash.connection_class`. Operators
use the `keyleash` command, or `keyleash.Operator` and `keyleash.Policy` in their programs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyleash import asyncio
    from keyleash import errors as errors
    from keyleash.api import Operator, Policy
    from keyleash.client._sync.cluster import RedisCluster
    from keyleash.client._sync.sync import Batch, Pipeline, Redis, connection_class, pool
    from keyleash.client.correlation import correlation
    from keyleash.client.once import once
    from keyleash.client.pools import is_guarded
    from keyleash.client.tokens import TokenFile
    from keyleash.client.whoami import RemainingLimit, WhoAmI
    from keyleash.errors import *  # noqa: F403 - its `__all__` is the list

    __all__ = [
        "Batch", "Operator", "Pipeline", "Policy", "Redis", "RedisCluster", "RemainingLimit",
        "TokenFile", "WhoAmI", "asyncio", "connection_class", "correlation", "is_guarded", "once",
        "pool",
    ]  # fmt: skip

__version__ = "0.1.0"

_MODULES = {
    "Batch": "client._sync.sync", "Operator": "api", "Pipeline": "client._sync.sync",
    "Policy": "api", "Redis": "client._sync.sync", "RedisCluster": "client._sync.cluster",
    "RemainingLimit": "client.whoami", "TokenFile": "client.tokens", "WhoAmI": "client.whoami",
    "asyncio": "asyncio", "connection_class": "client._sync.sync",
    "correlation": "client.correlation", "is_guarded": "client.pools", "once": "client.once",
    "pool": "client._sync.sync",
}  # fmt: skip
"""The modules of public names but errors. They are imported on use: the command needs few."""


def __dir__() -> list[str]:
    return sorted({*_MODULES, *import_module("keyleash.errors").__all__, "__version__", "__all__"})


if not TYPE_CHECKING:  # Otherwise every name would exist for type checkers.

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            # Agents lack the libraries that `Operator` and `Policy` need.
            load = import_module("keyleash.extras").import_with_extra
            found = load(f"keyleash.{_MODULES[name]}")
            found = found if name == "asyncio" else getattr(found, name)
            if isinstance(found, type):
                # Tracebacks and documentation name the place from which programs import it.
                found.__module__ = __name__
            return globals().setdefault(name, found)
        is_inner = name.startswith("__") and name != "__all__"
        errors = None if is_inner else import_module("keyleash.errors")
        if name == "__all__":
            return [*_MODULES, *errors.__all__]
        if is_inner or name not in ("errors", *errors.__all__):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals().setdefault(name, getattr(errors, name, errors))
