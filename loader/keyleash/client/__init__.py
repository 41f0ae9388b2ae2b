"""Drop-in redis-py clients whose every command goes through a guard."""

from keyleash.client._sync.cluster import RedisCluster
from keyleash.client._sync.sync import Batch, Pipeline, Redis, connection_class, pool
from keyleash.client.correlation import correlation
from keyleash.client.once import once
from keyleash.client.pools import is_guarded
from keyleash.client.tokens import TokenFile
from keyleash.client.whoami import RemainingLimit, WhoAmI

__all__ = [
    "Batch",
    "Pipeline",
    "Redis",
    "RedisCluster",
    "RemainingLimit",
    "TokenFile",
    "WhoAmI",
    "connection_class",
    "correlation",
    "is_guarded",
    "once",
    "pool",
]
