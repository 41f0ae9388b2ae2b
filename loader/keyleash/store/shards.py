"""The shards of a cluster: calls of their nodes, the expiry of leases, and what shards have."""

from __future__ import annotations

import struct
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import Any, TypeAlias, TypeVar

from redis.crc import key_slot
from redis.exceptions import ClusterDownError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.errors import OperationError
from keyleash.results import NodeEffect
from keyleash.store.connect import address_of
from keyleash.store.deployment import Node, each_at_once
from keyleash.store.keyspace import HOME_TAG, Keyspace
from keyleash.store.lease_ends import latest_end_us
from keyleash.store.leases import EPOCH_FIELD, LeaseEntry, ShardState, unpack_entry, unpack_shard
from keyleash.store.placement import control_slots, is_shard_tag, tag_of
from keyleash.store.scripts import CONFIRM, EXPIRE_LEASES, NEXT_EPOCH, OperatorScript
from keyleash.store.server import read_replicas, round_trip
from keyleash.store.server_check import Client
from keyleash.store.store import Store, batches
from keyleash.store.wire import is_of_a_cluster, reading_record, reading_reply, reason_of

T = TypeVar("T")
_Epochs: TypeAlias = dict[str, list[tuple[str, int]]]
"""For the tag of each shard, identities with their epochs."""

ROUNDS = 10
"""Attempts for shards whose slot is being moved."""
PAUSE_S = 0.1
"""The time between them."""
PIECE = 100
"""Identities per script call."""
REPLICATED_MS = 1000
"""Time to wait for replicas."""
NEAR_SLOTS = 2
"""The slots of each primary whose shards are reached also if the home knows none of them."""


def read_tags(store: Store, identities: Iterable[str]) -> dict[str, list[str]]:
    """Return by identity the tags of the home and of all shards that it ever had.

    On one server, the only tag is empty.
    """
    names = list(identities)
    if store.cluster is None:
        return {name: [""] for name in names}
    replies: list[list[bytes]] = []
    for piece in batches(names):
        replies += round_trip(store.client, (("HKEYS", store.keys.leases(name)) for name in piece))
    return {
        name: [HOME_TAG, *sorted(filter(is_shard_tag, map(bytes.decode, fields)))]
        for name, fields in zip(names, replies, strict=True)
    }


def read_epochs(store: Store, identities: Sequence[str]) -> dict[str, bytes]:
    """Return the epochs of identities at the home, as stored; empty for one without."""
    calls = (("HGET", store.keys.leases(name), EPOCH_FIELD) for name in identities)
    epochs = round_trip(store.client, calls)
    return {name: item or b"" for name, item in zip(identities, epochs, strict=True)}


def missing_shards(store: Store, tags: Iterable[str]) -> set[str]:
    """Report the nodes that do not answer to `on_missing` of the store; return their shards' tags.

    Without `on_missing` none is missing: reading a shard there is an error.
    """
    if store.cluster is None or store.on_missing is None:
        return set()
    reasons, missing = store.cluster.reasons(), set()
    for tag in tags:
        node = store.cluster.find(tag)
        if reason := reasons[node] if node else "no node serves it":
            missing.add(tag)
            store.on_missing(_named(node, tag), reason)
    return missing


def name_shards(store: Store, owner: str, tags: Iterable[str]) -> None:
    """Write down that there will be streams of an owner other than identities at some shards."""
    if store.cluster is not None:
        store.client.hset(store.keys.leases(owner), mapping=dict.fromkeys(tags, ""))


def at_shard(store: Store, tag: str, function: Callable[[Store], T]) -> T:
    """Return the result of *function* for the store of a shard, or of the home by its tag.

    On one server, that is *store* itself. *function* is called again while the slot of the tag is
    being moved.

    Raises:
        OperationError (node-unreachable): The node that serves the shard does not answer.
    """
    if store.cluster is None:
        return function(store)
    return at_slot(store.with_keys(store.keys.at_shard(tag)), key_slot(tag.encode()), function)


def at_slot(store: Store, slot: int, function: Callable[[Store], T]) -> T:
    """Return the result of *function* for the node that serves a slot, like `at_shard`."""
    cluster = store.cluster
    if cluster is None:
        return function(store)
    attempts = ROUNDS
    while True:
        node = cluster.serving(slot)
        try:
            if node is None:
                raise ClusterDownError(f"no node serves slot {slot}")
            return function(store.on_node(node.server.client))
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
        cluster.read()


def read_mac_key(store: Store) -> bytes | None:
    """Return the key of which those of identities are derived; None if there is none yet."""
    key: bytes | None = store.client.get(store.keys.mac_key)
    return key


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


def confirm(store: Store, effects: tuple[NodeEffect, ...] | None) -> tuple[NodeEffect, ...] | None:
    """Wait until a replica of the home, or of one server, has all that was written there.

    Returns:
        *effects*, completed; for one server None, or its own effect if it has replicas.
    """
    home = store.cluster and store.cluster.find(HOME_TAG)
    name = str(home or address_of(store.client))
    try:
        if effects == () or not (read_replicas(store.client) or (home and home.replicas)):
            return effects
        lack = _run_replicated(store.client, [(CONFIRM, store.keys, ())], 1)[1]
    except NoPermissionError:
        return effects
    except RedisError as error:
        lack = _unknown(error)
    effects = (NodeEffect(name),) if effects is None else effects
    return tuple(replace(e, unreplicated=lack) if e.node == name else e for e in effects)


def expire_leases(
    store: Store,
    identities: Collection[str] | None,
    *,
    resume: bool = False,
    limits: Iterable[int] = (),
    tokens: bool = False,
) -> tuple[NodeEffect, ...] | None:
    """End all leases of identities, after a change at the home, and wait for replicas of it.

    The home raises their epoch first. A shard that is reached then asks the home at the next call;
    at one that is not reached, leases end by themselves. Also reached are the shards that clients
    make of the slots of each primary, since a home may have forgotten them in a failover.

    Args:
        store: The home, or one server, where no leases are.
        identities: Their names; None for all that ever were active.
        resume: Whether suspensions by the circuit breakers of shards end.
        limits: The places of leased limits whose credit is dropped.
        tokens: Whether all credit of limits per token is dropped.

    Returns:
        All primaries with slots, and when the change takes effect there; for one server see
        `confirm`.
    """
    if store.cluster is None:
        return confirm(store, None)
    if identities is not None and not identities:
        return ()
    now_us, epochs = raise_epochs(store, dict.fromkeys(identities or (), 0))
    places = b"".join(struct.pack("<I", place) for place in limits)
    head = ("1" if resume else "", places, "1" if tokens else "")
    replies: list[ShardReply] = []
    later = _expire_at(store, head, epochs, replies)
    if later:
        # The home has lost epochs, and these shards would take no lease of it.
        _expire_at(store, head, raise_epochs(store, later)[1], replies)
    is_late = any(item.reason for item in replies)
    latest_us = latest_end_us(store, identities, now_us) if is_late else None
    return confirm(store, node_effects(replies, latest_us))


def _expire_at(
    store: Store, head: Sequence[str | bytes], epochs: _Epochs, replies: list[ShardReply]
) -> dict[str, int]:
    """Expire leases at shards; return the identities whose epoch a shard exceeds, and the next one.

    Args:
        store: The home.
        head: The arguments of the script before the identities.
        epochs: The epochs of identities, for each shard, and under "" for those of all primaries.
        replies: Gets the replies.
    """
    assert store.cluster is not None  # noqa: S101 - for mypy
    everywhere = epochs.pop("", [])
    shards = [(tag, "", pairs) for tag, pairs in sorted(epochs.items())]
    for node in store.cluster.nodes:
        for tag in map(tag_of, islice(control_slots(node.slots), NEAR_SLOTS)):
            reported = {*epochs.get(tag, ())}
            shards.append((tag, "1", [pair for pair in everywhere if pair not in reported]))
    calls = [
        (tag, (*head, existing, *chain.from_iterable(piece)))
        for tag, existing, pairs in shards
        for piece in batches(pairs, PIECE)
    ]
    later: dict[str, int] = {}
    replies += (ended := run_at_shards(store, EXPIRE_LEASES, calls))
    for item in ended:
        with reading_reply("EVAL"):
            for name, epoch in zip(*[iter(item.reply or ())] * 2, strict=True):
                later[name.decode()] = max(later.get(name.decode(), 0), int(epoch) + 1)
    return later


def raise_epochs(store: Store, identities: Mapping[str, int]) -> tuple[int, _Epochs]:
    """Raise the epoch of identities at the home.

    Args:
        store: The home.
        identities: The least epoch that each gets; none for all that ever were active.

    Returns:
        The home's time, and for each shard the identities with their new epochs; under "" all.
    """
    shards: _Epochs = defaultdict(list)
    now_us = 0
    pieces = batches(identities.items(), PIECE) if identities else [()]
    calls = [[word for pair in piece for word in pair] for piece in pieces]
    for reply in store.run_all(NEXT_EPOCH, calls):
        with reading_reply("EVAL"):
            now_us = int(reply[0])
            for name, epoch, tags in zip(*[iter(reply[1:])] * 3, strict=True):
                for tag in ("", *filter(is_shard_tag, map(bytes.decode, tags))):
                    shards[tag].append((name.decode(), epoch))
    return now_us, shards


@dataclass(frozen=True, slots=True)
class ShardReply:
    """The reply of one shard.

    Attributes:
        node: The node that serves it.
        reply: Its reply; None if there is none.
        reason: Why there is none; empty if there is one.
        unreplicated: As in `NodeEffect`.
    """

    node: str
    reply: Any = None
    reason: str = ""
    unreplicated: str = ""


def node_effects(
    replies: Iterable[ShardReply], latest_us: int | None = None
) -> tuple[NodeEffect, ...]:
    """Return the effects at nodes, of which those that were not reached end at *latest_us*."""
    effects: dict[str, NodeEffect] = {}
    for reply in sorted(replies, key=lambda item: item.node):
        old = effects.get(reply.node) or NodeEffect(reply.node)
        reason, lack = old.reason or reply.reason, old.unreplicated or reply.unreplicated
        effects[reply.node] = NodeEffect(reply.node, latest_us if reason else None, reason, lack)
    return tuple(effects.values())


def with_reasons(
    effects: Iterable[NodeEffect], reasons: Mapping[str, str]
) -> tuple[NodeEffect, ...]:
    """Return effects on leases, and those of nodes where something else failed.

    Args:
        reasons: Why it failed, by the name of each node; empty if it did not.
    """
    merged = {name: NodeEffect(name, reason=reason) for name, reason in reasons.items()}
    merged |= {item.node: item for item in effects if item.reason or not reasons.get(item.node)}
    return tuple(merged.values())


def run_at_shards(
    store: Store,
    script: OperatorScript,
    calls: Sequence[tuple[str, Sequence[Any]]],
    *,
    replicated: bool = False,
) -> list[ShardReply]:
    """Run a script at shards of a cluster, on all nodes at the same time.

    Args:
        store: The home of the cluster.
        script: The script, which may be run again if a slot is being moved.
        calls: The tag of a shard and the arguments of each call.
        replicated: Whether all replicas must have the change, or it is an error; else it is
            reported if none has.
    """
    cluster, by_place = store.cluster, dict[int, ShardReply]()
    assert cluster is not None  # noqa: S101 - one server has no shards
    waiting = list(range(len(calls)))
    for attempt in range(ROUNDS):
        if not waiting:
            break
        if attempt:
            time.sleep(PAUSE_S)
        with suppress(RedisError):
            # Known nodes are still called if none reports the slot map.
            cluster.read()
        by_node: dict[Node | None, list[int]] = defaultdict(list)
        for place in waiting:
            by_node[cluster.find(calls[place][0])].append(place)
        waiting = []

        def run_on(item: tuple[Node | None, list[int]]) -> tuple[list[Any], str]:
            node, places = item
            return _run_at(store, node, script, [calls[place] for place in places], replicated)

        for (node, places), (replies, lack) in zip(
            by_node.items(), each_at_once(run_on, by_node.items()), strict=True
        ):
            for place, reply in zip(places, replies, strict=True):
                name = _named(node, calls[place][0])
                if not isinstance(reply, RedisError):
                    by_place[place] = ShardReply(name, reply, unreplicated=lack)
                    continue
                by_place[place] = ShardReply(name, reason=reason_of(reply))
                if is_of_a_cluster(reply):
                    waiting.append(place)
    return [by_place[place] for place in range(len(calls))]


def _run_at(
    store: Store,
    node: Node | None,
    script: OperatorScript,
    calls: Sequence[tuple[str, Sequence[Any]]],
    replicated: bool,
) -> tuple[list[Any], str]:
    """Run a script at the shards of one node; return replies and errors, and what replicas lack."""
    if node is None:
        return [ClusterDownError("no node serves it")] * len(calls), ""
    client = node.server.quick
    scripts = [(script, store.keys.at_shard(tag), words) for tag, words in calls]
    try:
        replicas = max(len(read_replicas(client)), node.replicas)
        replies, lack = _run_replicated(client, scripts, replicas if replicated else replicas and 1)
    except RedisError as error:
        return [error] * len(calls), ""
    # Whichever becomes primary must have the change.
    return ([RedisError(lack)] * len(calls) if lack and replicated else replies), lack


def _run_replicated(
    client: Client, scripts: Sequence[tuple[OperatorScript, Keyspace, Sequence[Any]]], replicas: int
) -> tuple[list[Any], str]:
    """Run scripts, and wait until some replicas have that; return replies, and what they lack."""
    timeout_s = client.connection_pool.connection_kwargs.get("socket_timeout")
    wait_ms = min(REPLICATED_MS, int(500 * timeout_s)) if timeout_s else REPLICATED_MS
    with client.pipeline(transaction=False) as pipe:
        for script, keys, words in scripts:
            pipe.eval(script.text, *script.arguments(keys, *words))
        if replicas:
            # In the pipeline: WAIT looks back to the last write of its own connection.
            pipe.execute_command("WAIT", replicas, wait_ms)
        replies = list(pipe.execute(raise_on_error=False))
    if not replicas:
        return replies, ""
    errors = [reply for reply in replies if isinstance(reply, RedisError)]
    if errors:
        return replies[:-1], _unknown(errors[-1])
    few = "no replica has it yet" if replicas == 1 else "a replica lacks it"
    return replies[:-1], few if replies[-1] < replicas else ""


def _unknown(error: RedisError) -> str:
    return f"it is not known whether a replica has it: {reason_of(error)}"


@dataclass(frozen=True, slots=True)
class ShardRecords:
    """The records of one identity at one shard, and at the home about it.

    Attributes:
        node: The node that serves the shard.
        entry: The newest grant to it.
        state: Its state; None if it has none, or was not read.
        audited: Entries of its audit stream.
        denied: Entries of its denials.
        reason: Why the shard was not read; empty if it was.
    """

    identity: str
    tag: str
    node: str
    entry: LeaseEntry
    state: ShardState | None = None
    audited: int = 0
    denied: int = 0
    reason: str = ""


def read_shards(store: Store, identities: Sequence[str]) -> list[ShardRecords]:
    """Return the records of all shards of identities, by identity and tag; none on one server."""
    if store.cluster is None or not identities:
        return []
    by_node: dict[Node | None, list[ShardRecords]] = defaultdict(list)
    for names in batches(identities):
        calls = (("HGETALL", store.keys.leases(name)) for name in names)
        replies = round_trip(store.client, calls)
        for name, held in zip(names, replies, strict=True):
            for field, packed in held.items():
                tag = field.decode("latin-1")
                if is_shard_tag(tag):
                    node = store.cluster.find(tag)
                    with reading_record(f"an entry of the leases of `{name}`"):
                        entry = unpack_entry(packed)
                    records = ShardRecords(name, tag, _named(node, tag), entry)
                    by_node[node].append(records)
    read = each_at_once(partial(_read_at, store), by_node.items())
    return sorted(chain.from_iterable(read), key=lambda item: (item.identity, item.tag))


def _named(node: Node | None, tag: str) -> str:
    return f"slot {key_slot(tag.encode())}" if node is None else str(node)


def _read_at(
    store: Store, shards: tuple[Node | None, Sequence[ShardRecords]]
) -> list[ShardRecords]:
    """Return the records of the shards of one node, with what is read there."""
    node, items = shards
    if node is None:
        return [replace(item, reason="no node serves it") for item in items]
    snapshots = []
    try:
        for some in batches(items):
            with node.server.quick.pipeline(transaction=False) as pipe:
                for item in some:
                    keys = store.keys.at_shard(item.tag)
                    pipe.get(keys.state(item.identity))
                    pipe.xlen(keys.audit(item.identity))
                    pipe.xlen(keys.denied(item.identity))
                replies = iter(pipe.execute())
            for item, packed, audited, denied in zip(some, replies, replies, replies, strict=True):
                state = None
                # A fenced agent may write any bytes there: its guard drops them as well.
                with suppress(ValueError):
                    state = None if packed is None else unpack_shard(packed)
                snapshots.append(replace(item, state=state, audited=audited, denied=denied))
    except RedisError as error:
        return [replace(item, reason=reason_of(error)) for item in items]
    return snapshots
