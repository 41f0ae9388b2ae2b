"""The leases of the shards of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis.exceptions import ConnectionError, TimeoutError

from keyleash.limits import SubjectKind
from keyleash.policy import Identity
from keyleash.policy.parse import active_policy
from keyleash.results import Instant, Result
from keyleash.store.deployment import Node, each_at_once
from keyleash.store.guards import active_scripts, owners_not_loaded
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.leases import LimitCredit, LimitEntry
from keyleash.store.records import ActivePolicy
from keyleash.store.server import info_section
from keyleash.store.shards import ShardRecords
from keyleash.store.state import is_in_effect
from keyleash.store.store import Store
from keyleash.text import json_object


@dataclass(frozen=True, slots=True)
class LeasedLimit(Result):
    """The units of one limit at one shard.

    Attributes:
        name: The name of the limit.
        granted: The units that the home granted: of a budget in the open window, of a rate at last.
        unspent: Those that the shard may still use; None if it was not read.
        stranded: Those of a budget that never reached the shard, or were lost with its state, some
            of which may have been used; they stay charged until the window ends. None if it was not
            read.
    """

    name: str
    granted: int
    unspent: int | None
    stranded: int | None


@dataclass(frozen=True, slots=True)
class ShardStatus(Result):
    """An identity at one shard.

    Attributes:
        tag: The hash tag of the shard.
        node: The node that serves it.
        granted_ms: The time of the newest grant, by the clock of the home, Unix milliseconds.
        limits: The units of its leased limits.
        events: The number of the newest event of its audit stream there.
        suspended: Whether the circuit breaker suspends the identity at this shard.
        reason: Why the shard was not read; empty if it was.
        granted_at: `granted_ms` as a `datetime`.
    """

    tag: str
    node: str
    granted_ms: int
    limits: tuple[LeasedLimit, ...]
    events: int
    suspended: bool = False
    reason: str = ""
    granted_at = Instant[datetime]()

    def to_dict(self) -> dict[str, Any]:
        shown = json_object(self, "tag", "node", "granted_ms", "events", "suspended", "limits")
        return {**shown, "unread": self.reason or None}


def shard_status(identity: Identity, found: ShardRecords, now_us: int) -> ShardStatus:
    """Return the status of an identity at one shard; *now_us* is the clock of the home."""
    names = [item.name for item in identity.limits if item.subject.kind is SubjectKind.IDENTITY]
    grants = found.entry.limits if len(found.entry.limits) == len(names) else ()
    state = found.state
    credits_: Sequence[LimitCredit | None] = state.limits if state else ()
    if len(credits_) != len(names):
        credits_ = [None] * len(names)
    return ShardStatus(
        tag=found.tag,
        node=found.node,
        granted_ms=found.entry.granted_us // 1000,
        limits=tuple(
            _leased(name, grant, credit, now_us, is_read=not found.reason)
            for name, grant, credit in zip(names, grants, credits_, strict=False)
        ),
        events=0 if state is None else state.sequence,
        suspended=state is not None and is_in_effect(state.suspended, now_us),
        reason=found.reason,
    )


def _leased(
    name: str, grant: LimitEntry, credit: LimitCredit | None, now_us: int, *, is_read: bool
) -> LeasedLimit:
    is_budget = grant.window_us > 0
    is_open = grant.window_us > now_us
    granted = (grant.have if is_open else 0) if is_budget else grant.amount
    if not is_read:
        return LeasedLimit(name, granted, None, None)
    is_same = credit is not None and credit.window_us == grant.window_us
    unspent = credit.credit if credit is not None and is_same and credit.until_us > now_us else 0
    arrived = credit.have if credit is not None and is_same else 0
    return LeasedLimit(name, granted, unspent, max(0, granted - arrived) if is_budget else 0)


@dataclass(frozen=True, slots=True)
class ClusterStatus(Result):
    """A cluster.

    Attributes:
        home: The node that serves the home.
        nodes: The number of its nodes, also failed ones that it has not forgotten.
        primaries: The number of those that serve slots.
        home_operations: Commands per second of the node of the home, of all clients.
        reasons: Why each node is down, by its name; empty for those that answer.
        lacking: The identities whose guards a node lacks, by its name. Clients load them.
    """

    home: str
    nodes: int
    primaries: int
    home_operations: int
    reasons: Mapping[str, str]
    lacking: Mapping[str, Sequence[str]]

    @property
    def down(self) -> tuple[str, ...]:
        """The names of the nodes that are down."""
        return tuple(name for name, reason in self.reasons.items() if reason)

    def to_dict(self) -> dict[str, Any]:
        return json_object(self, "home", "nodes", "primaries", "home_operations", "down", "lacking")


def read_cluster(store: Store, active: ActivePolicy | None) -> ClusterStatus | None:
    """Return the status of the cluster with the *active* policy; None on one server."""
    if store.cluster is None:
        return None
    reasons = store.cluster.reasons()
    stats = info_section(store.client, "stats")
    identities = active_policy(active.document).identities if active else ()
    owners = active_scripts(store, (item.name for item in identities))
    answering = [node for node, why in reasons.items() if not why]

    def lacking(node: Node) -> Sequence[str]:
        try:
            return owners_not_loaded(store.on_node(node.server.quick), owners)
        except (ConnectionError, TimeoutError):
            # It was lost meanwhile.
            return ()

    lists = zip(answering, each_at_once(lacking, answering), strict=True)
    return ClusterStatus(
        home=str(store.cluster.find(HOME_TAG)),
        nodes=len(reasons),
        primaries=sum(bool(node.slots) for node in reasons),
        home_operations=int(stats.get("instantaneous_ops_per_sec", 0)),
        reasons={str(node): reason for node, reason in reasons.items()},
        lacking={str(node): names for node, names in lists if names},
    )
