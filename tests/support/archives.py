"""Streams as a guard writes them, and archives as a test reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import redis

from keyleash.audit.export.archive import locked_archive
from keyleash.audit.export.rows import read_rows
from keyleash.audit.export.run import Archiver, Exported
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
    """All entries that the files of a trail have, in their order."""
    return [
        (row.id, row.fields)
        for path in sorted((directory / trail).glob("[0-9]*"))
        for row in read_rows(path)
    ]


def stored(client: Any, stream: str) -> list[Entry]:
    """All entries that a stream has, with names that repeat."""
    found = client.execute_command(b"XRANGE", stream, "-", "+")
    return [
        (item.decode(), tuple(zip(words[::2], words[1::2], strict=True))) for item, words in found
    ]


def unacknowledged(client: Any, stream: str) -> int:
    """Return the number of exported entries that are not acknowledged."""
    groups = client.xinfo_groups(stream) if client.exists(stream) else []
    if not groups:
        return int(client.xlen(stream))
    (group,) = groups
    return int(group["pending"]) + int(group["lag"])


def manifest(directory: Path, trail: str) -> Any:
    """Return the newest manifest of a stream."""
    return json.loads((directory / trail / "manifest.json").read_text())


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

    from keyleash.audit.export import archive
    from keyleash.store.groups import ConsumerGroup

    left = step

    def stepping(function: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return stepped

    for place, name in (
        *((ConsumerGroup, item) for item in ("create", "acknowledge", "trim", "read")),
        *((archive.Draft, item) for item in ("write", "keep", "__exit__")),
        *((os, item) for item in ("fsync", "rename")),
        *((redis.Redis, item) for item in ("xack", "xadd")),
    ):
        setattr(place, name, stepping(getattr(place, name)))
    export(redis.Redis.from_url(url), Path(directory), max_entries=max_entries)
