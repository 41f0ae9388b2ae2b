"""The async client: `keyleash.asyncio.Redis` in the place of `redis.asyncio.Redis`."""

from keyleash.client.aio import Redis
from keyleash.client.aio_pipeline import Batch, Pipeline
from keyleash.client.correlation import correlation

__all__ = ["Batch", "Pipeline", "Redis", "correlation"]
