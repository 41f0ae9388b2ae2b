"""Slots of a cluster that no node serves, and the keys of scripts."""

from __future__ import annotations

from redis.exceptions import NoPermissionError, ResponseError

from keyleash.store.deployment import Node
from keyleash.store.keyspace import Keyspace
from keyleash.store.live_table import reply_text
from keyleash.store.placement import SLOTS, control_slots, tag_of
from keyleash.store.scripts import TRY_KEYS
from keyleash.store.server_check import Client
from keyleash.store.wire import is_down


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
