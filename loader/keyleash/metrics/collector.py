"""Reading a server once for each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from redis import exceptions as redis_errors

from keyleash.errors import KeyleashError
from keyleash.metrics.families import families_of, up
from keyleash.status import Snapshot

Outcome = Callable[[Exception | None], None]


class SnapshotCollector(Collector):
    """
    Metrics of a server as it is at the scrape.

    Args:
        read: Reads a snapshot.
        tell: Told after each scrape why it could not read the server; None if it could.

    Attributes:
        failure: Why the last one could not; None if it could.
    """

    def __init__(self, read: Callable[[], Snapshot], tell: Outcome) -> None:
        self.failure: Exception | None = None
        self._read = read
        self._tell = tell

    def describe(self) -> list[Metric]:
        """Nothing: who registers this must not need a server."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            found = list(families_of(self._read()))
        except (redis_errors.RedisError, OSError, KeyleashError, LookupError, ValueError) as error:
            self.failure = error
            self._tell(error)
            yield up(False)
            return
        self.failure = None
        self._tell(None)
        yield up(True)
        yield from found
