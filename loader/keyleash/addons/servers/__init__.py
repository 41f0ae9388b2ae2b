"""Embedded servers and clusters: the Valkey of the package, on the loopback interface."""

from keyleash.addons.servers.cluster import EmbeddedCluster
from keyleash.addons.servers.embedded import EmbeddedServer

__all__ = ["EmbeddedCluster", "EmbeddedServer"]
