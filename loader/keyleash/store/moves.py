"""Renaming of keys, and the change of a server's prefixes.

Each key is renamed atomically, with its value and expiry. A key whose new name is taken keeps its
name and is reported. An interrupted walk can therefore be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import compress

from redis.exceptions import ResponseError, WatchError

from keyleash.results import Progress
from keyleash.store.identities import known_identities
from keyleash.store.keyspace import script_digest
from keyleash.store.prefixes import PrefixChange, change_fields
from keyleash.store.scripts import END_SWITCH, SWITCH_PREFIXES, switch_arguments
from keyleash.store.server import count_keys, round_trip
from keyleash.store.store import Store, batches

PIECE = 500
"""Keys per SCAN and renames per round trip: about a millisecond of the server's time."""

NewName = Callable[[bytes], bytes | None]
"""Returns the new name of a key; None if it keeps its name."""


def move_keys(
    store: Store, new_name: NewName, report: Progress | None = None
) -> tuple[int, tuple[bytes, ...]]:
    """
    Rename every key with a new name.

    Keys that others create meanwhile may be missed.

    Args:
        store: The server.
        new_name: Returns the new name of a key.
        report: Called with the progress after each piece.

    Returns:
        The number of renamed keys, and the keys whose new name is taken.
    """
    seen = moved = 0
    total = count_keys(store.client)
    conflicts: dict[bytes, None] = {}
    for count, renames in _scan(store, new_name):
        calls = (("RENAMENX", key, new) for key, new in renames)
        replies = round_trip(store.client, calls, raises=False)
        for (key, _), reply in zip(renames, replies, strict=True):
            if isinstance(reply, ResponseError):
                # It expired, or was deleted or renamed meanwhile.
                if "no such key" not in str(reply):
                    raise reply
            elif reply:
                moved += 1
            else:
                conflicts[key] = None
        seen += count
        if report is not None:
            report(seen, max(total, seen))
    return moved, tuple(conflicts)


def find_conflicts(store: Store, new_name: NewName) -> tuple[bytes, ...]:
    """Return the keys whose new names are taken; nothing is changed."""
    conflicts: dict[bytes, None] = {}
    for _, renames in _scan(store, new_name):
        taken = round_trip(store.client, (("EXISTS", new) for _, new in renames))
        conflicts |= dict.fromkeys(compress((key for key, _ in renames), taken))
    return tuple(conflicts)


def _scan(store: Store, new_name: NewName) -> Iterator[tuple[int, list[tuple[bytes, bytes]]]]:
    """Yield the number of keys in each piece of a SCAN, and those with their new names."""
    cursor = None
    while cursor != 0:
        cursor, keys = store.client.scan(cursor or 0, count=PIECE)
        yield len(keys), [(key, new) for key in keys if (new := new_name(key)) is not None]


def begin_change(
    store: Store, change: PrefixChange, before_begin: Callable[[], None] = lambda: None
) -> bool:
    """Record a change of prefixes, unless another one was recorded before.

    Args:
        store: The server.
        change: The change.
        before_begin: Called before the record is written.

    Returns:
        Whether it was recorded.
    """
    journal = change.old.sealed
    with store.client.pipeline(transaction=True) as pipe:
        pipe.watch(journal)
        if not pipe.hexists(journal, "change"):
            pipe.multi()
            pipe.hset(journal, mapping=change_fields(change))
            before_begin()
            with suppress(WatchError):
                pipe.execute()
                return True
    return False


def switch_prefixes(
    store: Store, change: PrefixChange, generation: int, load: str, stamps: Mapping[str, bytes]
) -> None:
    """Activate staged guards that have the new prefixes; they deny every agent as suspended.

    Args:
        store: The server.
        change: The recorded change.
        generation: The generation of the active policy.
        load: The id of the load that staged the records.
        stamps: The stamp of each new guard, by identity.

    Raises:
        redis.ResponseError: Another policy was activated at the same time.
    """
    left = set(known_identities(store.with_keys(change.old))) - set(stamps)
    words = [word for name in left for word in (name, b"")]
    words += [word for pair in stamps.items() for word in pair]
    store.load(SWITCH_PREFIXES)
    arguments = switch_arguments(change.old, change.new, generation, load, *words)
    store.client.evalsha(script_digest(SWITCH_PREFIXES.text), *arguments)


def with_leases(store: Store, identities: Sequence[str]) -> list[str]:
    """Return the identities whose leases are at the home of a cluster under these names."""
    leased: list[str] = []
    for piece in batches(identities):
        calls = (("EXISTS", store.keys.leases(name)) for name in piece)
        leased += compress(piece, round_trip(store.client, calls))
    return leased


def rename_leases(store: Store, change: PrefixChange, identities: Sequence[str]) -> None:
    """Rename the hashes of leases of identities at the home of a cluster."""
    for piece in batches(identities):
        names = ((change.old.leases(name), change.new.leases(name)) for name in piece)
        round_trip(store.client, (("RENAME", *pair) for pair in names))


def end_change(store: Store, change: PrefixChange) -> None:
    """Resume all identities that were not suspended before the change."""
    store.client.eval(END_SWITCH.text, *END_SWITCH.arguments(change.new, store.actor))


def delete_old_sources(store: Store, change: PrefixChange) -> None:
    """Delete the stored scripts that have the old prefixes."""
    if identities := known_identities(store.with_keys(change.new)):
        store.client.unlink(*map(change.old.source, identities))
