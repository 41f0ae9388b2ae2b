"""Embedded servers and clusters: the Valkey of the package, on the loopback interface."""

from keyleash.servers.cluster import EmbeddedCluster
from keyleash.servers.embedded import EmbeddedServer

__all__ = ["EmbeddedCluster", "EmbeddedServer"]
