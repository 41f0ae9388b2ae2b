"""Streams as a guard writes them, and archives as a test reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import redis

from keyleash.addons.export.archive import Archive, Cursor, locked_archive, read_cursor
from keyleash.addons.export.rows import bounded_lines, read_row
from keyleash.addons.export.run import Archiver, Exported
from keyleash.audit.streams import id_order
from keyleash.store.keyspace import Keyspace
from keyleash.store.store import Store

KEYS = Keyspace()
Entry = tuple[str, tuple[tuple[bytes, bytes], ...]]


def add_events(client: Any, identity: str, numbers: Iterable[int], **fields: str | bytes) -> None:
    """Append events to the identity's trail, with these sequence numbers."""
    with client.pipeline(transaction=False) as pipe:
        pipe.hset(KEYS.layouts, identity, "{}")
        for number in numbers:
            head = {"seq": number, "token": "t", "policy": "p 1,1w", "correlation": "c"}
            pipe.xadd(KEYS.audit(identity), {**head, "SET": f"k:{number}", **fields})
        pipe.execute()


def export(
    client: Any, directory: Path, *, actor: str = "unknown", **options: Any
) -> list[Exported]:
    """One run of an archiver."""
    with locked_archive(directory) as archive:
        return list(Archiver(Store(client, actor=actor), archive, **options).run())


def archived(directory: Path, trail: str) -> list[Entry]:
    """All entries that the files of a trail have up to its cursor, in their order."""
    files = cursor(directory, trail).files(directory)
    rows = [read_row(line) for path, end in files for line in bounded_lines(path, end)]
    return [(row.id, row.fields) for row in rows]


def stored(client: Any, stream: str) -> list[Entry]:
    """All entries that a stream has, with names that repeat."""
    found = client.execute_command(b"XRANGE", stream, "-", "+")
    return [
        (item.decode(), tuple(zip(words[::2], words[1::2], strict=True))) for item, words in found
    ]


def unrecorded(client: Any, trail: str, stream: str) -> int:
    """Return the number of entries that the server does not record as exported."""
    record = json.loads(client.hget(KEYS.exported, trail) or '{"id": "0-0"}')
    return sum(id_order(item) > id_order(record["id"]) for item, _ in stored(client, stream))


def cursor(directory: Path, trail: str) -> Cursor:
    """Return the end of what was exported of a stream."""
    return read_cursor(Archive(directory, "", ""), trail)


def run_again_and_again(begun: Any, url: str, directory: str, max_entries: int) -> None:
    """The work of an archiver that is to be killed: while there is a server, it does not end."""
    begun.set()
    client = redis.Redis.from_url(url)
    with locked_archive(Path(directory)) as archive:
        archiver = Archiver(Store(client), archive, max_entries=max_entries)
        try:
            while True:
                for _ in archiver.run():
                    pass
        except redis.ConnectionError:
            return


def run_until(step: int, url: str, directory: str, max_entries: int) -> None:
    """One run of an archiver that is killed before its step number *step*."""
    import os
    import signal

    from keyleash.addons.export import archive, run

    left = step
    write = archive.StreamFolder._write

    def is_last() -> bool:
        nonlocal left
        left -= 1
        return not left

    def stepping(function: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **options: Any) -> Any:
            if is_last():
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return stepped

    def torn(folder: archive.StreamFolder, name: str, data: bytes) -> int:
        if is_last():
            with open(folder.path / name, "ab") as file:
                file.write(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(folder, name, data)

    for place, name in (
        *(
            (run, item)
            for item in ("read_exports", "claim_export", "write_export", "trim_exported")
        ),
        *((archive.StreamFolder, item) for item in ("append", "_write", "_cut")),
        *((os, item) for item in ("fsync", "fstat", "open")),
        *((Path, item) for item in ("rename", "mkdir", "unlink")),
        (redis.Redis, "execute_command"),
    ):
        setattr(place, name, torn if name == "_write" else stepping(getattr(place, name)))
    export(redis.Redis.from_url(url), Path(directory), max_entries=max_entries)
