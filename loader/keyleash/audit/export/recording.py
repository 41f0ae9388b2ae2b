"""The control events that say what was exported."""

from __future__ import annotations

import json
from collections.abc import Iterable

from keyleash.audit.export.archive import Archive, Mark
from keyleash.audit.export.opening import OpenTrail
from keyleash.audit.export.row import Row
from keyleash.audit.export.trail import Trail, TrailKind
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace


class Recorder:
    """
    Leaves an event for what was exported since the last one, also by a run that was killed.

    An event becomes an entry of the control stream's own trail. So what holds nothing but such
    events is not worth another one, or each export would beget the next.
    """

    def __init__(self, client: Client, keyspace: Keyspace, archive: Archive, actor: str) -> None:
        self._client = client
        self._keyspace = keyspace
        self._archive = archive
        self._actor = actor
        self._open: list[OpenTrail] = []
        self._has_news = False

    def add(self, one: OpenTrail) -> None:
        """Take a trail that is exported from now on."""
        self._open.append(one)
        unrecorded = one.folder.head.files > self._marked(one).files
        self._has_news |= unrecorded and one.trail.kind is not TrailKind.CONTROL

    def note(self, trail: Trail, rows: Iterable[Row]) -> None:
        """Take rows that are exported."""
        is_control = trail.kind is TrailKind.CONTROL
        self._has_news |= any(not is_control or row.field(b"event") != b"export" for row in rows)

    def record(self) -> None:
        """Say how far each trail is exported, with its chain, if there is news."""
        new = [one for one in self._open if one.folder.head.files > self._marked(one).files]
        if not self._has_news or not new:
            return
        said = {one.trail.name: self._progress(one) for one in new}
        event = {"event": "export", "actor": self._actor, "archive": self._archive.id}
        event |= {"place": self._archive.place, "trails": json.dumps(said)}
        self._client.xadd(self._keyspace.control, event)
        self._archive = self._archive.with_marks({one.trail.name: _mark(one) for one in new})
        self._has_news = False

    def _progress(self, one: OpenTrail) -> dict[str, str | int]:
        before, mark = self._marked(one), _mark(one)
        return {
            "after": before.last or "0-0",
            "to": mark.last,
            "count": mark.count - before.count,
            "files": mark.files,
            "chain": mark.chain,
        }

    def _marked(self, one: OpenTrail) -> Mark:
        return self._archive.marks.get(one.trail.name, Mark())


def _mark(one: OpenTrail) -> Mark:
    head = one.folder.head
    return Mark(head.files, head.count, head.last, head.chain)
