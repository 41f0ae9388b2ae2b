"""The async client: `keyleash.asyncio.Redis` in the place of `redis.asyncio.Redis`."""

from keyleash.client.asyncio import Batch, Pipeline, Redis
from keyleash.client.correlation import correlation

__all__ = ["Batch", "Pipeline", "Redis", "correlation"]

for _public in (Batch, Pipeline, Redis):
    _public.__module__ = __name__
