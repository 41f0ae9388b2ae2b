"""The record of what an archive has of each audit stream, stored beside the stream.

An archiver writes it after the entries are on disk, and trims no entry beyond it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from keyleash.errors import ArchiveError
from keyleash.store.shards import at_shard
from keyleash.store.store import Store
from keyleash.store.streams import AuditStream, pipelined
from keyleash.store.wire import reading_record

FORMAT = 3
"""The number of the format of archives, their lines and these records."""
BEFORE_ALL = "0-0"
"""An id before that of any entry."""
NO_CHAIN = "0" * 64
TRIMMED = 500
"""Entries per call at most: the server serves no other client meanwhile."""


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """The last entry of a stream that an archive has.

    Attributes:
        archive: The id of the archive, the only one to which the stream is exported.
        place: Host and directory where the archive was created: a name for people.
        id: Of the last exported entry.
        chain: SHA-256 in hex of its line, which covers all lines before it.
    """

    archive: str
    place: str
    id: str = BEFORE_ALL
    chain: str = NO_CHAIN

    def __str__(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)})


def require_format(what: str, record: dict[str, Any]) -> None:
    """Remove the number of the format from *record*; ArchiveError if it is another one."""
    # Archives of older formats have a `version`.
    number = record.pop("format", record.get("version"))
    if number == FORMAT:
        return
    is_newer = isinstance(number, int) and number > FORMAT
    raise ArchiveError(
        "archive",
        f"{what} has format {number!r}, and this keyleash reads format {FORMAT}",
        help="it was written by a newer keyleash: use that one"
        if is_newer
        else "export to a new directory; verify this one with the keyleash that wrote it",
    )


def read_exports(store: Store, streams: Sequence[AuditStream]) -> list[ExportRecord | None]:
    """Return the record of each stream; None for one that was never exported."""
    calls = [(item, ("HGET", export_key(store, item), item.name)) for item in streams]
    records = zip(streams, pipelined(store, calls), strict=True)
    return [_record(item, data) if data else None for item, data in records]


def _record(stream: AuditStream, data: bytes) -> ExportRecord:
    what = f"the record of the export of `{stream.name}`"
    with reading_record(what):
        fields = json.loads(data)
        require_format(what, fields)
        return ExportRecord(**fields)


def claim_export(store: Store, stream: AuditStream, record: ExportRecord) -> bool:
    """Write the first record of a stream; return False if it has one."""
    key, text = export_key(store, stream), str(record)
    return bool(
        at_shard(store, stream.shard, lambda shard: shard.client.hsetnx(key, stream.name, text))
    )


def write_export(store: Store, stream: AuditStream, record: ExportRecord) -> None:
    """Replace the record of a stream: its entries up to the record are on disk."""
    key, text = export_key(store, stream), str(record)
    at_shard(store, stream.shard, lambda shard: shard.client.hset(key, stream.name, text))


def trim_exported(store: Store, stream: AuditStream, record: ExportRecord) -> None:
    """Remove the entries up to the record from a stream."""
    milliseconds, _, number = record.id.partition("-")
    keep_from = f"{milliseconds}-{int(number) + 1}"

    def trim(*how: object) -> int:
        words = ("XTRIM", stream.key, "MINID", *how)
        return int(
            at_shard(store, stream.shard, lambda shard: shard.client.execute_command(*words))
        )

    while trim("~", keep_from, "LIMIT", TRIMMED):
        pass
    # The rest of the last node: an identity at its `hard_max` needs all its room back.
    trim("=", keep_from)


def export_key(store: Store, stream: AuditStream) -> str:
    """Return the key of the records of the streams beside *stream*."""
    return store.keys.at_shard(stream.shard).exported
