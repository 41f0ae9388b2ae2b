"""An embedded server: the Valkey of the package, on the loopback interface."""

from keyleash.servers.embedded import EmbeddedServer

__all__ = [
    "EmbeddedServer",
]
