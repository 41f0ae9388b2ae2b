"""The consumer group of an exported stream, by which the server tracks the export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from keyleash.store.server_check import Client
from keyleash.store.shards import at_shard
from keyleash.store.store import Store, batches
from keyleash.store.streams import AuditStream, RawEntry
from keyleash.store.wire import reading_reply

GROUPS = "keyleash-export:"
"""The prefix of the groups of all archives."""
ACKNOWLEDGED = 500
"""Entries per call at most: the server serves no other client meanwhile."""


class ConsumerGroup:
    """The consumer group of one stream and archive: delivers and acknowledges entries.

    Args:
        archive: The id of the archive.
        place: The archive's host and directory, the name of the group's only consumer.
    """

    def __init__(self, store: Store, stream: AuditStream, archive: str, place: str) -> None:
        self._store = store
        self._shard = stream.shard
        self._key = stream.key
        self.name = f"{GROUPS}{archive}"
        self._place = place

    def others(self) -> dict[str, str]:
        """Return the groups of other archives with their places; none without a stream."""
        names = [name for name in self._groups() if name.startswith(GROUPS) and name != self.name]
        return {name: self._place_of(name) for name in names}

    def exists(self) -> bool:
        """Return whether the stream has the group."""
        return self.name in self._groups()

    def stream_exists(self) -> bool:
        """Return whether the stream exists."""
        return bool(self._run(lambda client: client.exists(self._key)))

    def create(self) -> bool:
        """Create the group at the stream's beginning; return False if there is no stream yet."""
        if not self.stream_exists():
            return False
        try:
            self._run(lambda client: client.xgroup_create(self._key, self.name, id="0"))
            self._run(
                lambda client: client.xgroup_createconsumer(self._key, self.name, self._place)
            )
        except ResponseError as error:
            # Removed since the check.
            if "requires the key to exist" in str(error):
                return False
            raise
        return True

    def destroy(self, name: str) -> None:
        """Remove a group of the stream."""
        self._run(lambda client: client.xgroup_destroy(self._key, name))

    def read(self, after: str, count: int) -> list[RawEntry]:
        """Return delivered entries after an id, or with `>` deliver new ones."""
        # As bytes, redis-py does not know the command, else it would make a dict of the fields.
        group = (b"XREADGROUP", "GROUP", self.name, self._place)
        words = (*group, "COUNT", count, "STREAMS", self._key, after)
        reply: Any = self._execute(*words)
        if not reply:
            return []
        entries = next(iter(reply.values())) if isinstance(reply, dict) else reply[0][1]
        return [(entry_id, words or []) for entry_id, words in entries]

    def acknowledge(self, ids: Sequence[str]) -> None:
        """Acknowledge entries."""
        for some in batches(ids, ACKNOWLEDGED):
            self._execute("XACK", self._key, self.name, *some)

    def trim(self, last: str) -> int:
        """Remove entries up to *last* from the stream; return their number."""
        milliseconds, _, number = last.partition("-")
        keep_from = f"{milliseconds}-{int(number) + 1}"
        removed = 0
        while count := self._trim(keep_from, "~", "LIMIT", ACKNOWLEDGED):
            removed += count
        # The rest of the last node: an identity at its `hard_max` needs all its room back.
        return removed + self._trim(keep_from, "=")

    def lag(self) -> int | None:
        """Return the number of undelivered entries; None if the server does not know."""
        return self._groups().get(self.name, 0)

    def _trim(self, keep_from: str, how: str, *limit: object) -> int:
        words = ("XTRIM", self._key, "MINID", how, keep_from, *limit)
        return int(self._execute(*words))

    def _groups(self) -> dict[str, int]:
        try:
            groups = self._run(lambda client: client.xinfo_groups(self._key))
        except ResponseError as error:
            if "no such key" in str(error):
                return {}
            raise
        with reading_reply("XINFO"):
            return {group["name"].decode(): group["lag"] for group in groups}

    def _execute(self, *words: Any) -> Any:
        return self._run(lambda client: client.execute_command(*words))

    def _run(self, call: Callable[[Client], Any]) -> Any:
        return at_shard(self._store, self._shard, lambda shard: call(shard.client))

    def _place_of(self, name: str) -> str:
        consumers = self._run(lambda client: client.xinfo_consumers(self._key, name))
        with reading_reply("XINFO"):
            return ", ".join(consumer["name"].decode() for consumer in consumers) or name
