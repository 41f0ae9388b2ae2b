"""A server of one's own: the Valkey that comes with the package, on the loopback interface."""

from keyleash.servers.embedded import EmbeddedServer

__all__ = [
    "EmbeddedServer",
]
