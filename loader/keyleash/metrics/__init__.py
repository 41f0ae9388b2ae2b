"""The numbers of `keyleash status` for Prometheus."""

from keyleash.metrics.collector import SnapshotCollector
from keyleash.metrics.families import families_of

__all__ = ["SnapshotCollector", "families_of"]
