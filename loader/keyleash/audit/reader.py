"""Reading trails back: newest pages first, corrections folded in, identities merged by time."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, overload

from keyleash.audit.event import (
    AuditEvent,
    Denial,
    Pairs,
    Repeats,
    Sequel,
    audit_events,
    audit_sequel,
    denial_entry,
)
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
        its own; that of a batch is one for each of its commands.
    """
    page = min(limit + 1, MAX_PAGE)
    read: Callable[..., Iterator[Any]] = _denials if denied else _events
    trails: list[Iterator[AuditEvent | Denial]]
    trails = [read(client, keyspace, identity, page) for identity in identities]
    newest = heapq.merge(*trails, key=_place, reverse=True)
    return list(islice(newest, limit))[::-1]


def _events(client: Client, keyspace: Keyspace, identity: str, page: int) -> Iterator[AuditEvent]:
    # A sequel is newer than its event, so newest first it is always met before it.
    sequels: dict[str, list[Sequel]] = defaultdict(list)
    for entry_id, pairs in _newest_first(client, keyspace.audit(identity), page):
        sequel = audit_sequel(pairs)
        if sequel is not None:
            sequels[sequel.of].append(sequel)
            continue
        about = sequels.pop(entry_id.decode(), ())
        yield from reversed(audit_events(identity, entry_id, pairs, about))


def _denials(client: Client, keyspace: Keyspace, identity: str, page: int) -> Iterator[Denial]:
    counts: dict[str, int] = {}
    for entry_id, pairs in _newest_first(client, keyspace.denied(identity), page):
        found = denial_entry(identity, entry_id, pairs)
        if isinstance(found, Repeats):
            counts[found.of] = found.repeats
        else:
            yield replace(found, repeats=counts.pop(found.id, found.repeats))


def _newest_first(client: Client, stream: str, page: int) -> Iterator[tuple[bytes, Pairs]]:
    end = "+"
    while True:
        # By a name that redis-py does not know: it would make a dict of the fields, whose
        # names repeat.
        entries = client.execute_command(b"XREVRANGE", stream, end, "-", "COUNT", page)
        for entry_id, words in entries:
            yield entry_id, list(zip(words[::2], words[1::2], strict=True))
        if len(entries) < page:
            return
        end = f"({entries[-1][0].decode()}"


def _place(entry: AuditEvent | Denial) -> tuple[int, int, int]:
    milliseconds, _, number = entry.id.partition("-")
    return int(milliseconds), int(number), entry.item if isinstance(entry, AuditEvent) else 0
