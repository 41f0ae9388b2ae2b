"""Slots of a cluster: those that move, those that no node serves, and the keys of scripts."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import compress

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from keyleash.store.deployment import Node
from keyleash.store.keyspace import CONTROL_PREFIX, Keyspace
from keyleash.store.live_table import reply_text
from keyleash.store.placement import SLOTS, control_slots, key_slot, tag_of
from keyleash.store.scripts import TRY_KEYS
from keyleash.store.server import round_trip
from keyleash.store.server_check import Client
from keyleash.store.wire import is_down

_MOVING = re.compile(r"\[(\d+)-([<>])-")
_WRITE_BETWEEN_SLOTS = (
    "redis.call('SET', ARGV[1], '1', 'PX', 1000) return redis.call('GET', KEYS[1])"
)
TRIAL_MS = 10_000
"""The life of the key of a trial, if it is not deleted."""


def moving_slots(client: Client) -> list[int]:
    """Return the slots that a node gives or gets key by key."""
    text = reply_text(client.execute_command("CLUSTER", "NODES"))
    own = (line for line in text.splitlines() if "myself" in line.split(" ", 3)[2])
    return sorted({int(slot) for line in own for slot, _ in _MOVING.findall(line)})


def unserved_slots(client: Client) -> int:
    """Return the number of slots without a working node, as a node sees it."""
    lines = reply_text(client.execute_command("CLUSTER", "INFO")).splitlines()
    facts = dict(line.partition(":")[::2] for line in lines)
    return SLOTS - int(facts["cluster_slots_ok"])


def undeclared_keys_error(client: Client, node: Node, keyspace: Keyspace) -> str:
    """Return why a node denies keys that a script does not declare; empty if it does not.

    Guards use such keys, of several slots of their node. Only names of no key are asked for.

    Raises:
        NoPermissionError: The user lacks rights that it takes to try it.
    """
    slots = [slot for slot, _ in zip(control_slots(node.slots), range(2), strict=False)]
    first, *more = (keyspace.at_shard(tag_of(slot)) for slot in slots)
    second = more[0] if more else first
    try:
        client.eval(TRY_KEYS.text, *TRY_KEYS.arguments(first, second.none))
    except NoPermissionError:
        raise
    except ResponseError as error:
        # A cluster that is down denies all keys.
        return "" if is_down(error) else str(error)
    return ""


def keys_of_one_server(client: Client, node: Node, identities: Iterable[str]) -> list[str]:
    """Return the control keys of one server that are at a node, among those with known names."""
    names = Keyspace()
    keys = [names.policy, names.history, names.layouts, names.control, names.fence]
    for name in identities:
        keys += [names.guard(name), names.state(name), names.tokens(name)]
    own = [key for key in keys if node.serves(key_slot(key.encode()))]
    return [*compress(own, round_trip(client, (("EXISTS", key) for key in own)))]


def misses_keys_of_moving_slots(source: Client, target: Client, node: Node) -> bool | None:
    """Return whether a node misses a key in a moving slot after a command on another slot.

    An empty slot is marked as moving to the target for some milliseconds, and nothing moves.
    Redis 8.0 has this defect. The result is None if the node has no empty slot to try it with.

    Args:
        source: A client of the node.
        target: A client of another primary.
    """
    slots = control_slots(node.slots)
    other = next(slots, None)
    empty = next(
        (s for s in slots if not source.execute_command("CLUSTER", "COUNTKEYSINSLOT", s)), None
    )
    if other is None or empty is None:
        return None
    trial = secrets.token_hex(8)
    data, control = (f"{CONTROL_PREFIX}{{{tag_of(slot)}}}:trial:{trial}" for slot in (empty, other))
    try:
        source.set(data, "1", px=TRIAL_MS)
        with _moving(source, target, empty):
            return source.eval(_WRITE_BETWEEN_SLOTS, 1, data, control) is None
    except ResponseError:
        return True
    finally:
        with suppress(RedisError):
            source.delete(data)
            source.delete(control)


@contextmanager
def _moving(source: Client, target: Client, slot: int) -> Iterator[None]:
    ids = [reply_text(client.execute_command("CLUSTER", "MYID")) for client in (source, target)]
    try:
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        yield
    finally:
        for client in (source, target):
            client.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
