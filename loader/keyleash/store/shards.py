"""The shards of a cluster: their tags, calls of their nodes, and the expiry of leases."""

from __future__ import annotations

import secrets
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeAlias, TypeVar

from redis.crc import key_slot
from redis.exceptions import ClusterDownError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.errors import OperationError
from keyleash.results import NodeEffect
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.leases import DEFAULT_LEASE_US, MASTER_KEY_BYTES
from keyleash.store.nodes import ClusterNodes, Node, each_at_once
from keyleash.store.placement import is_shard_tag
from keyleash.store.scripts import EXPIRE_LEASES, NEXT_EPOCH
from keyleash.store.store import Store, batches
from keyleash.store.wire import is_of_a_cluster, reading_reply, reason_of

T = TypeVar("T")
_Epochs: TypeAlias = dict[str, list[tuple[str, int]]]
"""For the tag of each shard, identities with their epochs."""

ROUNDS = 10
"""Attempts for shards whose slot is being moved."""
PAUSE_S = 0.1
"""The time between them."""
PIECE = 100
"""Identities per script call."""


def read_tags(store: Store, identities: Iterable[str]) -> dict[str, list[str]]:
    """Return by identity the tags of the home and of all shards that it ever had.

    On one server, the only tag is empty.
    """
    names = list(identities)
    if store.nodes is None:
        return {name: [""] for name in names}
    found: list[list[bytes]] = []
    for piece in batches(names):
        with store.client.pipeline(transaction=False) as pipe:
            for name in piece:
                pipe.hkeys(store.keys.leases(name))
            found += pipe.execute()
    return {
        name: [HOME_TAG, *sorted(filter(is_shard_tag, map(bytes.decode, fields)))]
        for name, fields in zip(names, found, strict=True)
    }


def name_shards(store: Store, owner: str, tags: Iterable[str]) -> None:
    """Write down that there will be streams of an owner other than identities at some shards."""
    if store.nodes is not None:
        store.client.hset(store.keys.leases(owner), mapping=dict.fromkeys(tags, ""))


def at_shard(store: Store, tag: str, function: Callable[[Store], T]) -> T:
    """Return the result of *function* for the store of a shard, or of the home by its tag.

    On one server, that is *store* itself. *function* is called again while the slot of the tag is
    being moved.

    Raises:
        OperationError (node-unreachable): The node that serves the shard does not answer.
    """
    if store.nodes is None:
        return function(store)
    return at_slot(store.at(store.keys.at_shard(tag)), key_slot(tag.encode()), function)


def at_slot(store: Store, slot: int, function: Callable[[Store], T]) -> T:
    """Return the result of *function* for the node that serves a slot, like `at_shard`."""
    nodes = store.nodes
    if nodes is None:
        return function(store)
    attempts = ROUNDS
    while True:
        node = nodes.serving(slot)
        try:
            if node is None:
                raise ClusterDownError(f"no node serves slot {slot}")
            return function(store.on(nodes.client(node)))
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise OperationError(
                "node-unreachable",
                f"cannot reach the node `{node}` of the cluster: {reason_of(error)}",
                help="run it again when the node is back, or its slots are served by another one",
            ) from error
        except RedisError as error:
            attempts -= 1
            if not attempts or not is_of_a_cluster(error):
                raise
        time.sleep(PAUSE_S)
        nodes.read()


def read_mac_key(store: Store) -> bytes | None:
    """Return the key of which those of identities are derived; None if there is none yet."""
    key: bytes | None = store.client.get(store.keys.mac_key)
    return key


def new_mac_key() -> bytes:
    """Return a random key for a cluster that has none."""
    return secrets.token_bytes(MASTER_KEY_BYTES)


def store_mac_key(store: Store, key: bytes) -> None:
    """Store the key with which guards were compiled, unless it is stored already.

    Raises:
        OperationError (activation-conflict): The cluster has another one.
    """
    store.client.set(store.keys.mac_key, key, nx=True)
    if read_mac_key(store) != key:
        raise OperationError(
            "activation-conflict",
            "another load made the key of the cluster's leases meanwhile",
            help="load it again",
        )


def expire_leases(
    store: Store,
    identities: Collection[str] | None,
    *,
    resume: bool = False,
    limits: Iterable[int] = (),
) -> tuple[NodeEffect, ...] | None:
    """End all leases of identities, after a change at the home of a cluster.

    The home raises their epoch first. A shard that is reached then asks the home at the next call;
    at one that is not reached, leases end by themselves.

    Args:
        store: The home, or one server, where nothing is to be done.
        identities: Their names; None for all that ever were active.
        resume: Whether suspensions by the circuit breakers of shards end.
        limits: The places of leased limits whose credit is dropped.

    Returns:
        The nodes that have shards of the identities, and when the change takes effect there; None
        on one server.
    """
    if store.nodes is None:
        return None
    if identities is not None and not identities:
        return ()
    now_us, epochs = _next_epochs(store, identities or ())
    dropped = b"".join(struct.pack("<I", place) for place in limits)
    words = ("1" if resume else "", dropped)
    reasons = _expire(store, store.nodes, epochs, words)
    latest_us = now_us + DEFAULT_LEASE_US
    return tuple(
        NodeEffect(node, latest_us if reason else None, reason)
        for node, reason in sorted(reasons.items())
    )


def _next_epochs(store: Store, identities: Collection[str]) -> tuple[int, _Epochs]:
    """Return the home's time, and for each shard the identities with their new epochs."""
    shards: _Epochs = defaultdict(list)
    now_us = 0
    for reply in store.run_all(NEXT_EPOCH, batches(identities, PIECE) if identities else [()]):
        with reading_reply("EVAL"):
            now_us = int(reply[0])
            for name, epoch, tags in zip(*[iter(reply[1:])] * 3, strict=True):
                for tag in filter(is_shard_tag, map(bytes.decode, tags)):
                    shards[tag].append((name.decode(), epoch))
    return now_us, shards


def _expire(
    store: Store, nodes: ClusterNodes, epochs: _Epochs, words: Sequence[str | bytes]
) -> dict[str, str]:
    """Return the nodes of all shards, and why one was not reached; empty if it was."""
    results: dict[str, tuple[str, str]] = {}
    waiting = sorted(epochs)
    for attempt in range(ROUNDS if epochs else 0):
        if attempt:
            time.sleep(PAUSE_S)
        with suppress(RedisError, OperationError):
            # Known nodes are still called if none reports the slot map.
            nodes.read()
        by_node: dict[Node | None, list[str]] = defaultdict(list)
        for tag in waiting:
            by_node[nodes.find(tag)].append(tag)
        call = partial(_expire_at, store, nodes, epochs, words)
        waiting = []
        for node, failures in zip(by_node, each_at_once(call, by_node.items()), strict=True):
            for tag, error in failures.items():
                name = f"slot {key_slot(tag.encode())}" if node is None else str(node)
                results[tag] = (name, "" if error is None else reason_of(error))
                if error is not None and is_of_a_cluster(error):
                    waiting.append(tag)
        if not waiting:
            break
    reasons: dict[str, str] = {}
    for name, reason in results.values():
        reasons[name] = reasons.get(name) or reason
    return reasons


def _expire_at(
    store: Store,
    nodes: ClusterNodes,
    epochs: _Epochs,
    words: Sequence[str | bytes],
    shards: tuple[Node | None, Sequence[str]],
) -> dict[str, RedisError | None]:
    """Expire leases at the shards of one node; return the error of each shard."""
    node, tags = shards
    if node is None:
        return dict.fromkeys(tags, ClusterDownError("no node serves it"))
    calls = [(tag, piece) for tag in tags for piece in batches(epochs[tag], PIECE)]
    with nodes.quick_client(node).pipeline(transaction=False) as pipe:
        for tag, piece in calls:
            pairs = [word for pair in piece for word in pair]
            keys = store.keys.at_shard(tag)
            pipe.eval(EXPIRE_LEASES.text, *EXPIRE_LEASES.arguments(keys, *words, *pairs))
        try:
            replies = pipe.execute(raise_on_error=False)
        except RedisError as error:
            return dict.fromkeys(tags, error)
    failures: dict[str, RedisError | None] = dict.fromkeys(tags)
    for (tag, _), reply in zip(calls, replies, strict=True):
        if isinstance(reply, RedisError):
            failures[tag] = reply
    return failures
