"""The guard record, the state and the scripts of identities, as a load and checks compare them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from keyleash.doubles import DOUBLE, whole
from keyleash.errors import OperationError
from keyleash.policy.parse import IDENTITY_NAME
from keyleash.store.records import GuardRecord, guard_record
from keyleash.store.store import Store, batches

SCANNED = 1000
"""Keys per call of SCAN."""


@dataclass(frozen=True, slots=True)
class GuardSnapshot:
    """The records of an identity on the server.

    Attributes:
        record: Its guard record; None if it is not active, an empty one if it is damaged.
        stamp: The stamp of the guard that its state belongs to; 0 if there is none.
        size: The length of its state in bytes; 0 if there is none.
        sources: The digests of its stored scripts.
    """

    record: GuardRecord | None = None
    stamp: int = 0
    size: int = 0
    sources: frozenset[str] = frozenset()

    @property
    def is_present(self) -> bool:
        """Return whether its guard may be active; the stamp alone keeps an old guard callable."""
        return self.record is not None or self.stamp != 0


def read_snapshots(store: Store, identities: Iterable[str]) -> dict[str, GuardSnapshot]:
    """Read the snapshot of each of *identities*.

    A flush may have deleted records, states or sources, and other server commands change the guards
    of a policy.

    Raises:
        redis.ResponseError: A key has the wrong type.
    """
    snapshots = {}
    for names in batches(identities):
        with store.client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(store.keys.guard(name))
                pipe.getrange(store.keys.state(name), 0, DOUBLE - 1)
                pipe.strlen(store.keys.state(name))
                pipe.hkeys(store.keys.source(name))
            replies = pipe.execute()
        for place, name in enumerate(names):
            record, stamp, size, sources = replies[place * 4 : place * 4 + 4]
            snapshots[name] = GuardSnapshot(
                _record(record),
                whole(struct.unpack("<d", stamp)[0]) if len(stamp) == DOUBLE else 0,
                size,
                frozenset(digest.decode() for digest in sources),
            )
    return snapshots


def _record(raw: dict[bytes, bytes]) -> GuardRecord | None:
    """Return a guard record; of a damaged one an empty record, which matches no guard."""
    try:
        return guard_record(raw)
    except OperationError:
        return GuardRecord("", "", "", 0)


def find_identities(store: Store) -> set[str]:
    """Return the identities that have a guard record or a state, by a SCAN of all keys."""
    names = set()
    for root in (store.keys.guard_root, store.keys.state_root):
        for key in store.client.scan_iter(f"{root}*", count=SCANNED):
            name = key.decode("utf-8", "replace").removeprefix(root)
            if IDENTITY_NAME.fullmatch(name):
                names.add(name)
    return names
