"""Stored states of identities, their layouts, their suspensions and further counters."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from redis.crc import key_slot
from redis.exceptions import RedisError

from keyleash.limits import Limit, SubjectKind
from keyleash.store.deployment import Node, each_at_once
from keyleash.store.keyspace import Keyspace
from keyleash.store.server import round_trip
from keyleash.store.shards import at_slot
from keyleash.store.state import IdentityState, Layout, unpack_state
from keyleash.store.store import Store, batches
from keyleash.store.wire import reason_of

SCANNED = 1000
"""Keys per call of SCAN."""


def read_layouts(store: Store) -> dict[str, Layout]:
    """Return the layout of each state, by identity, also of identities that left the policy."""
    raw = store.client.hgetall(store.keys.layouts)
    return {name.decode(): Layout.from_json(text) for name, text in raw.items()}


def read_packed_layout(store: Store, identity: str) -> bytes | None:
    """Return the layout of a state as it is stored; None if there is none."""
    packed: bytes | None = store.client.hget(store.keys.layouts, identity)
    return packed


def read_packed_state(store: Store, identity: str) -> bytes | None:
    """Return a state as it is stored; None if there is none."""
    packed: bytes | None = store.client.get(store.keys.state(identity))
    return packed


def read_states(store: Store, names: Sequence[str]) -> Iterator[IdentityState | None]:
    """Yield the states of identities; None if there is none, or it is shorter than its layout."""
    layouts = store.client.hgetall(store.keys.layouts)
    for some in batches(names):
        packed = round_trip(store.client, (("GET", store.keys.state(name)) for name in some))
        for name, data in zip(some, packed, strict=True):
            yield _state(data, layouts.get(name.encode()))


def _state(packed: bytes | None, layout: bytes | None) -> IdentityState | None:
    if packed is None or layout is None:
        return None
    try:
        return unpack_state(packed, Layout.from_json(layout))
    except struct.error:
        # Shorter than its layout. The guard denies every call as well.
        return None


def read_suspension_reason(store: Store, identity: str) -> bytes:
    """Return the recorded reason of a suspension; empty if there is none."""
    return store.client.hget(store.keys.suspension(identity), "reason") or b""


class StoredActivity(NamedTuple):
    """The lengths of an identity's streams, and the record of its suspension.

    Attributes:
        audited: Entries of its audit stream.
        denied: Entries of its denials.
        suspension: The fields of the record, which may be out of date.
    """

    audited: int
    denied: int
    suspension: Mapping[bytes, bytes]


def read_activity(store: Store, names: Sequence[str]) -> list[StoredActivity]:
    """Return the activity of each identity, in one round trip."""
    with store.client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.xlen(store.keys.audit(name))
            pipe.xlen(store.keys.denied(name))
            pipe.hgetall(store.keys.suspension(name))
        replies = iter(pipe.execute())
    return [StoredActivity(*item) for item in zip(replies, replies, replies, strict=True)]


def state_key(keyspace: Keyspace, identity: str) -> str:
    """Return the key that counts the limits of an identity itself."""
    return keyspace.state(identity)


def counter_key(keyspace: Keyspace, identity: str, limit: Limit, subject: bytes) -> str:
    """Return the key of a subject's counter: by a token's id, or by the SHA-1 of a segment.

    On a cluster, a segment is the hash tag, so that the counter is in the slot of the data; that of
    a token is at the home.
    """
    is_token = limit.subject.kind is SubjectKind.TOKEN
    if keyspace.tag and not is_token:
        tag = subject.decode("utf-8", "surrogateescape")
        return f"{_of_data(keyspace).limit_prefix(identity, limit.name)}{{{tag}}}"
    digest = hashlib.sha1(subject, usedforsecurity=False).hexdigest()
    return keyspace.limit_prefix(identity, limit.name) + (subject.decode() if is_token else digest)


def read_counter(store: Store, identity: str, limit: Limit, subject: bytes) -> bytes | None:
    """Return the counter of one token (by its id) or one captured segment; None without one."""
    key = counter_key(store.keys, identity, limit, subject).encode("utf-8", "surrogateescape")

    def read(at: Store) -> bytes | None:
        packed: bytes | None = at.client.get(key)
        return packed

    return at_slot(store, key_slot(key), read)


def _of_data(keyspace: Keyspace) -> Keyspace:
    """Return the names of counters per segment on a cluster, which have the hash tags of data."""
    return replace(keyspace, tag="")


def delete_counters(
    store: Store, identity: str, limits: Sequence[Limit]
) -> tuple[int, dict[str, str]]:
    """Delete the counters of limits per captured segment on all nodes of a cluster.

    Returns:
        The number of deleted counters, and for each node the reason why it has counters left;
        empty if it has none.
    """
    cluster = store.cluster
    if cluster is None or all(item.subject.kind is not SubjectKind.CAPTURE for item in limits):
        return 0, {}
    names = store.with_keys(_of_data(store.keys))

    def delete_at(node: Node) -> tuple[int, str]:
        here, count, reason = names.on_node(node.server.quick), 0, ""
        try:
            for piece in batches(find_counters(here, identity, limits)):
                replies = round_trip(here.client, (("UNLINK", key) for key in piece), raises=False)
                for reply in replies:
                    if isinstance(reply, RedisError):
                        reason = reason_of(reply)
                    else:
                        count += reply
        except RedisError as error:
            reason = reason_of(error)
        return count, reason

    primaries = [node for node in cluster.nodes if node.slots]
    results = each_at_once(delete_at, primaries)
    reasons = {str(node): reason for node, (_, reason) in zip(primaries, results, strict=True)}
    return sum(count for count, _ in results), reasons


def find_counters(store: Store, identity: str, limits: Sequence[Limit]) -> Iterator[bytes]:
    """Yield the keys of counters per token or per captured segment, each once."""
    prefixes = tuple(
        store.keys.limit_prefix(identity, limit.name).encode()
        for limit in limits
        if limit.subject.kind is not SubjectKind.IDENTITY
    )
    if not prefixes:
        return
    # SCAN may return a key twice; a second deletion would drop later calls.
    seen: set[bytes] = set()
    pattern = f"{store.keys.limit_prefix(identity, '')[:-1]}*"
    for key in store.client.scan_iter(pattern, count=SCANNED):
        if key.startswith(prefixes) and key not in seen:
            seen.add(key)
            yield key
