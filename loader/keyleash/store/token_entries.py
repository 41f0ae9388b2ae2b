"""The stored entries and records of tokens.

An entry is JSON with the facts that operators list; guards never read it. A record is packed, and
guards check it at every call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keyleash.store.server import round_trip
from keyleash.store.store import Store
from keyleash.store.token import ID_SHAPE

SCANNED = 1000
_DIGEST = re.compile(r"[0-9a-f]{40}")


def read_token_entries(store: Store, identities: Sequence[str]) -> list[dict[bytes, bytes]]:
    """Return the entries of the tokens of each identity, by token id."""
    return round_trip(store.client, (("HGETALL", store.keys.tokens(name)) for name in identities))


def read_child_entries(
    store: Store, identities: Sequence[str]
) -> list[dict[str, Mapping[str, Any]]]:
    """Return the entries of the child tokens of each identity, by token id.

    Guards write them, so a fenced agent may have written others: what is malformed is left out.
    """
    return [dict(_children(raw)) for raw in _read_raw_children(store, identities)]


def _read_raw_children(store: Store, identities: Sequence[str]) -> list[dict[bytes, bytes]]:
    calls = (("HGETALL", store.keys.delegated(name)) for name in identities)
    replies = round_trip(store.client, calls, raises=False)
    return [raw if isinstance(raw, dict) else {} for raw in replies]


def _children(raw: Mapping[bytes, bytes]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, text in raw.items():
        id_ = name.decode("ascii", "replace")
        try:
            facts = json.loads(text)
            digest, issued_ms = facts["digest"], int(facts["issued_ms"])
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
            continue
        if ID_SHAPE.fullmatch(id_) and isinstance(digest, str) and _DIGEST.fullmatch(digest):
            yield id_, {"digest": digest, "issued_ms": issued_ms, "meta": facts.get("meta")}


def record_names(store: Store, identity: str = "") -> Iterator[str]:
    """Yield the names of all token records of an identity, or of all, after `token_root`.

    Some are repeated.

    A fenced agent whose guard writes records may have written some that no entry names.
    """
    root = store.keys.token_root
    pattern, start = f"{store.keys.token_prefix(identity) if identity else root}*", len(root)
    names = store.client.scan_iter(pattern, count=SCANNED)
    return (key[start:].decode("utf-8", "surrogateescape") for key in names)


def read_token_records(
    store: Store, digests: Mapping[str, Sequence[str]]
) -> list[list[bytes | None]]:
    """Return the packed records of the tokens of each identity, by their digests."""
    keys = ([store.keys.token(name, item) for item in some] for name, some in digests.items())
    return round_trip(store.client, (("MGET", *names) for names in keys))


def delete_token_entries(store: Store, identity: str, ids: Sequence[str]) -> None:
    """Delete the entries of some tokens."""
    store.client.hdel(store.keys.tokens(identity), *ids)
