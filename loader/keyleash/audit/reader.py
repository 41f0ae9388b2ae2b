"""Reading trails back: newest pages first, corrections folded in, identities merged by time."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, overload

from keyleash.audit.event import AuditEvent, Correction, Denial, Entry, audit_entry, denial
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace

MAX_PAGE = 500
"""Entries per XREVRANGE: the server answers nobody else meanwhile."""


@overload
def read_events(
    client: Client,
    keyspace: Keyspace,
    identities: Iterable[str],
    *,
    limit: int,
    denied: Literal[False] = ...,
) -> list[AuditEvent]: ...
@overload
def read_events(
    client: Client,
    keyspace: Keyspace,
    identities: Iterable[str],
    *,
    limit: int,
    denied: Literal[True],
) -> list[Denial]: ...
def read_events(
    client: Client,
    keyspace: Keyspace,
    identities: Iterable[str],
    *,
    limit: int,
    denied: bool = False,
) -> list[Any]:
    """Read the newest entries of some identities' trails.

    Args:
        client: A redis-py client of an operator, `decode_responses` off.
        keyspace: Where the control keys are.
        identities: Whose trails; they need not be active any more.
        limit: How many entries at most, of all identities together.
        denied: Read what was refused, rather than what was let through.

    Returns:
        Entries by time, oldest first. An entry that only corrects an event is not one of
        its own.
    """
    page = min(limit + 1, MAX_PAGE)
    read = _denials if denied else _events
    trails = [read(client, keyspace, identity, page) for identity in identities]
    newest = heapq.merge(*trails, key=_place, reverse=True)
    return list(islice(newest, limit))[::-1]


def _events(client: Client, keyspace: Keyspace, identity: str, page: int) -> Iterator[AuditEvent]:
    # A correction is newer than its event, so newest first it is always met before it.
    errors: dict[str, str] = {}
    for entry_id, fields in _newest_first(client, keyspace.audit(identity), page):
        entry = audit_entry(identity, entry_id, fields)
        match entry:
            case Correction():
                errors[entry.of] = entry.error
            case AuditEvent():
                yield replace(entry, error=errors.pop(entry.id, None))


def _denials(client: Client, keyspace: Keyspace, identity: str, page: int) -> Iterator[Denial]:
    for entry_id, fields in _newest_first(client, keyspace.denied(identity), page):
        yield denial(identity, entry_id, fields)


def _newest_first(
    client: Client, stream: str, page: int
) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    end = "+"
    while True:
        entries = client.xrevrange(stream, max=end, count=page)
        yield from entries
        if len(entries) < page:
            return
        end = f"({entries[-1][0].decode()}"


def _place(entry: Entry) -> tuple[int, int]:
    milliseconds, _, number = entry.id.partition("-")
    return int(milliseconds), int(number)
