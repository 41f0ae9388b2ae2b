"""All peers, in the order of the report; the floor and keyleash first."""

from __future__ import annotations

from benchmarks.peers import (
    by_acl,
    by_casbin,
    by_keyleash,
    by_limits,
    by_pyrate,
    by_raw,
    by_throttled,
    by_transaction,
)
from benchmarks.peers.by_upstash import node_peers
from benchmarks.peers.peer import Peer

FIVE_TRIPS = by_limits.PEERS[0]
"""The chain that the bar is about, in its cheapest form."""

IN_PYTHON = (
    by_raw.PEER,
    by_keyleash.PEER,
    *by_limits.PEERS,
    by_throttled.PEER,
    *by_pyrate.PEERS,
    by_casbin.PEER,
    *by_transaction.PEERS,
    by_acl.PEER,
)


def all_peers() -> tuple[tuple[Peer, ...], str]:
    """Every peer that can run here, and a remark on those that cannot."""
    in_node, remark = node_peers()
    return IN_PYTHON + in_node, remark
