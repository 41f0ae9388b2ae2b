"""The stored entries and records of tokens.

An entry is JSON with the facts that operators list; guards never read it. A record is packed, and
guards check it at every call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keyleash.store.restrictions import restrictions_of
from keyleash.store.server import round_trip
from keyleash.store.store import Store, batches
from keyleash.store.token import ID_SHAPE, TokenRecord

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


def count_unlisted(store: Store, identity: str, now_us: int) -> int:
    """Return the number of an identity's tokens that work and have no entry."""
    start, works = len(identity) + 1, dict[str, TokenRecord]()
    for names in batches(record_names(store, identity)):
        digests = [name[start:] for name in names if _DIGEST.fullmatch(name[start:])]
        [records] = read_token_records(store, {identity: digests}) if digests else [[]]
        for digest, packed in zip(digests, records, strict=True):
            record = packed and TokenRecord.unpack(packed)
            if record and not record.revoked and record.expires_us > now_us:
                works[digest] = record
    # Read last: a token that was made meanwhile has an entry by now.
    entries = {
        **read_token_entries(store, [identity])[0],
        **_read_raw_children(store, [identity])[0],
    }
    listed = {facts["digest"] for _, facts in _children(entries)}
    return sum(
        digest not in listed and _ancestors_of(record) <= works.keys()
        for digest, record in works.items()
    )


def _ancestors_of(record: TokenRecord) -> set[str]:
    """Return the digests of a token's ancestors; one that is none if the record is corrupt."""
    try:
        restrictions = restrictions_of(record)
    except ValueError:
        return {""}
    return {item.digest for item in restrictions.chain} if restrictions else set()


def read_token_records(
    store: Store, digests: Mapping[str, Sequence[str]]
) -> list[list[bytes | None]]:
    """Return the packed records of the tokens of each identity, by their digests."""
    keys = ([store.keys.token(name, item) for item in some] for name, some in digests.items())
    return round_trip(store.client, (("MGET", *names) for names in keys))


def delete_token_entries(store: Store, identity: str, ids: Sequence[str]) -> None:
    """Delete the entries of some tokens."""
    store.client.hdel(store.keys.tokens(identity), *ids)
