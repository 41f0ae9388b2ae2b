"""The stored entries and records of tokens.

An entry is JSON with the facts that operators list; guards never read it. A record is packed, and
guards check it at every call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from keyleash.store.restrictions import Restrictions
from keyleash.store.server import round_trip
from keyleash.store.store import Store
from keyleash.store.token import (
    ASKING_ID,
    KEEP_AFTER_EXPIRY_MS,
    TokenRecord,
    new_token,
    token_digest,
)

SCANNED = 1000


def read_token_entries(store: Store, identities: Sequence[str]) -> list[dict[bytes, bytes]]:
    """Return the entries of the tokens of each identity, by token id."""
    return round_trip(store.client, (("HGETALL", store.keys.tokens(name)) for name in identities))


def read_child_entries(store: Store, identities: Sequence[str]) -> list[dict[bytes, bytes]]:
    """Return the entries of the child tokens of each identity, by token id; guards write them."""
    names = map(store.keys.delegated, identities)
    return round_trip(store.client, (("HGETALL", name) for name in names))


def read_token_records(
    store: Store, digests: Mapping[str, Sequence[str]]
) -> list[list[bytes | None]]:
    """Return the packed records of the tokens of each identity, by their digests."""
    keys = ([store.keys.token(name, item) for item in some] for name, some in digests.items())
    return round_trip(store.client, (("MGET", *names) for names in keys))


def delete_token_entries(store: Store, identity: str, ids: Sequence[str]) -> None:
    """Delete the entries of some tokens."""
    store.client.hdel(store.keys.tokens(identity), *ids)


ASKING_MS = 10_000
"""The life of a token with which an operator asks a guard."""


@contextmanager
def asking_token(store: Store, identity: str, restrictions: Restrictions | None) -> Iterator[str]:
    """Make a token that no list has and with which nothing should run; delete it at the end."""
    token = new_token(identity)
    key, now_ms = store.keys.token(identity, token_digest(token)), store.now_ms()
    tail = restrictions.without_caps().pack() if restrictions else None
    record = TokenRecord(ASKING_ID, (now_ms + ASKING_MS) * 1000, now_ms * 1000, tail=tail)
    store.client.set(key, record.pack(), px=ASKING_MS + KEEP_AFTER_EXPIRY_MS)
    try:
        yield token
    finally:
        store.client.unlink(key)
