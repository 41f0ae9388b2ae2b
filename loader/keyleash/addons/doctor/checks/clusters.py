"""Checks of the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.addons.doctor.context import Context
from keyleash.addons.doctor.findings import CheckResult, finding
from keyleash.store.deployment import Node, Server
from keyleash.store.slots import undeclared_keys_error, unserved_slots


def check_slots(_context: Context, server: Server) -> Iterator[CheckResult]:
    """Look for slots that no node serves."""
    if unserved := unserved_slots(server.client):
        yield finding("slots-not-served", server.name, count=unserved)


def check_scripts_of_slots(context: Context, server: Server) -> Iterator[CheckResult]:
    """Try a script with keys that it does not declare, in several slots."""
    node, keys = _node_of(context, server), context.keyspace
    if node is not None and (reason := undeclared_keys_error(server.client, node, keys)):
        yield finding("undeclared-keys", server.name, reason=reason)


def _node_of(context: Context, server: Server) -> Node | None:
    """Return the primary that a server is; None for a replica."""
    nodes = () if context.cluster is None else context.cluster.nodes
    return next((item for item in nodes if item.slots and item.server is server), None)
