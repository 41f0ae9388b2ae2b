"""Values of keys and of before-images, as a server reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from redis.crc import key_slot

from keyleash.errors import CrossSlotError
from keyleash.store.deployment import Node
from keyleash.store.keyspace import script_digest
from keyleash.store.placement import tag_of
from keyleash.store.scripts import READ_VALUE
from keyleash.store.shards import at_slot
from keyleash.store.store import Store, pieces

_UNREADABLE = "LEASH IMAGE_UNREADABLE"
PIECE = 100
PIECE_BYTES = 1_000_000
"""Values and bytes per pipeline, which bound the time of one round trip."""


def read_values(
    store: Store, sources: Sequence[tuple[str, bytes]], *, whole: bool
) -> Iterator[Any]:
    """Yield the reply of `read_value.lua` for each source.

    Args:
        sources: `key` and a key of agents, or the kind and the content of a before-image.
        whole: Whether to read all elements, or the first.

    Yields:
        A `redis.ResponseError` for a before-image that the server cannot read.
    """
    extent = "whole" if whole else "short"
    if store.cluster is None:
        yield from _replies(store, sources, extent)
        return
    slots = [
        key_slot(value if kind == "key" else store.keys.tag.encode()) for kind, value in sources
    ]
    by_node: dict[Node | None, list[int]] = defaultdict(list)
    for place, slot in enumerate(slots):
        by_node[store.cluster.serving(slot)].append(place)
    replies: dict[int, Any] = {}
    for places in by_node.values():
        read = partial(_listed, sources=[sources[place] for place in places], extent=extent)
        replies |= zip(places, at_slot(store, slots[places[0]], read), strict=True)
    yield from (replies[place] for place in range(len(sources)))


def _listed(store: Store, sources: Sequence[tuple[str, bytes]], extent: str) -> list[Any]:
    return list(_replies(store, sources, extent))


def _replies(store: Store, sources: Sequence[tuple[str, bytes]], extent: str) -> Iterator[Any]:
    store.load(READ_VALUE)
    digest = script_digest(READ_VALUE.text)
    for piece in pieces(sources, PIECE, PIECE_BYTES, lambda source: len(source[1])):
        with store.client.pipeline(transaction=False) as pipe:
            for kind, value in piece:
                pipe.evalsha(digest, *READ_VALUE.arguments(store.keys, kind, value, extent))
            for reply in pipe.execute(raise_on_error=False):
                if isinstance(reply, Exception) and _UNREADABLE not in str(reply):
                    raise reply
                yield reply


def require_one_slot(store: Store, keys: Iterable[bytes]) -> None:
    """Raise `CrossSlotError` for keys of agents in several slots of a cluster."""
    if store.cluster is not None and len(set(map(key_slot, keys))) > 1:
        raise CrossSlotError


def key_exists(store: Store, key: bytes) -> bool:
    """Return whether a key of agents exists."""
    return bool(at_slot(store, key_slot(key), lambda node: node.client.exists(key)))


def node_of(store: Store, key: bytes) -> Node | None:
    """Return the node of a cluster that serves a key of agents; None on one server."""
    return store.cluster.serving(key_slot(key)) if store.cluster else None


def undo_prefix_of(store: Store, key: bytes) -> str:
    """Return the prefix of temporary keys in the slot of *key*, to which RENAME may move it."""
    keys = store.keys.at_shard(tag_of(key_slot(key))) if store.cluster else store.keys
    return keys.undo_prefix
