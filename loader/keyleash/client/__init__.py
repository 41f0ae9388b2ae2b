"""Drop-in redis-py clients whose every command goes through a guard."""

from keyleash.client.correlation import correlation
from keyleash.client.sync import Redis

__all__ = ["Redis", "correlation"]
