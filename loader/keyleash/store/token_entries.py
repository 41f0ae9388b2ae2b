"""The stored entries and records of tokens.

An entry is JSON with the facts that operators list; guards never read it. A record is packed, and
guards check it at every call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keyleash.store.store import Store


def read_token_entries(store: Store, identities: Sequence[str]) -> list[dict[bytes, bytes]]:
    """Return the entries of the tokens of each identity, by token id."""
    with store.client.pipeline(transaction=False) as pipe:
        for name in identities:
            pipe.hgetall(store.keys.tokens(name))
        found: list[dict[bytes, bytes]] = pipe.execute() if identities else []
    return found


def read_token_records(
    store: Store, digests: Mapping[str, Sequence[str]]
) -> list[list[bytes | None]]:
    """Return the packed records of the tokens of each identity, by their digests."""
    with store.client.pipeline(transaction=False) as pipe:
        for name, some in digests.items():
            pipe.mget([store.keys.token(name, digest) for digest in some])
        found: list[list[bytes | None]] = pipe.execute() if digests else []
    return found


def delete_token_entries(store: Store, identity: str, ids: Sequence[str]) -> None:
    """Delete the entries of some tokens."""
    store.client.hdel(store.keys.tokens(identity), *ids)
