"""Checks of the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.addons.doctor.context import Context
from keyleash.addons.doctor.findings import CheckResult, finding
from keyleash.store.deployment import Node, Server
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.placement import key_slot
from keyleash.store.slots import (
    keys_of_one_server,
    moving_slots,
    undeclared_keys_error,
    unserved_slots,
)


def check_slots(_context: Context, server: Server) -> Iterator[CheckResult]:
    """Look for slots that no node serves, and for those that move key by key."""
    if unserved := unserved_slots(server.client):
        yield finding("slots-not-served", server.name, count=unserved)
    if moving := moving_slots(server.client):
        home = key_slot(HOME_TAG.encode())
        effect = ""
        if home in moving:
            effect = "; operations on control keys and new leases wait, because one is the home"
        slots = ", ".join(map(str, moving[:5])) + (" and more" if len(moving) > 5 else "")
        yield finding("slot-moving", server.name, slots=slots, effect=effect)


def check_keys_of_one_server(context: Context, server: Server) -> Iterator[CheckResult]:
    """Look for control keys that came with data from one server."""
    node = _node_of(context, server)
    if node is None:
        return
    identities = [identity.name for identity in context.policy.identities]
    found = keys_of_one_server(server.client, node, identities)
    if found:
        yield finding("keys-of-one-server", server.name, names=found)


def check_scripts_of_slots(context: Context, server: Server) -> Iterator[CheckResult]:
    """Try a script with keys that it does not declare, in several slots."""
    node, keys = _node_of(context, server), context.keyspace
    if node is not None and (reason := undeclared_keys_error(server.client, node, keys)):
        yield finding("undeclared-keys", server.name, reason=reason)


def _node_of(context: Context, server: Server) -> Node | None:
    """Return the primary that a server is; None for a replica."""
    nodes = () if context.cluster is None else context.cluster.nodes
    return next((item for item in nodes if item.slots and item.server is server), None)
