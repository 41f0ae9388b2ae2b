"""A snapshot of a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis.exceptions import ResponseError

from keyleash.addons.status.identities import RECENT_S, IdentityStatus, identity_statuses
from keyleash.addons.status.shards import ClusterStatus, read_cluster
from keyleash.operations import operation
from keyleash.operations.types import Count, IdentityName
from keyleash.operator.tokens.issue import active_identity
from keyleash.results import Instant, Result
from keyleash.store.records import ActivePolicy, read_active
from keyleash.store.server import info_section, primary_of
from keyleash.store.store import Store
from keyleash.text import json_object


@dataclass(frozen=True, slots=True)
class Snapshot(Result):
    """A server and its identities at one moment.

    Attributes:
        now_ms: Server time, Unix milliseconds.
        active: The active policy, if any.
        identities: The identities of that policy, in its order, unless others were selected.
        cluster: The cluster; None on one server.
        primary: The server that it is a replica of; empty if it is a primary.
    """

    now_ms: int
    active: ActivePolicy | None
    identities: tuple[IdentityStatus, ...] = ()
    cluster: ClusterStatus | None = None
    primary: str = ""

    now = Instant[datetime]("now_ms")

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as `keyleash status --json` prints it, without the server."""
        policy = ("digest", "generation", "activated_ms", "by=actor")
        return {
            **json_object(self, "at=now_ms"),
            "policy": self.active and json_object(self.active, *policy),
            "denials_s": RECENT_S,
            "identities": [item.to_dict() for item in self.identities],
            **json_object(self, "cluster?", "replica_of=primary?"),
        }


MEASURES: Mapping[str, Callable[[IdentityStatus], float]] = {
    "suspended": lambda item: (
        item.word != "active" or any(shard.suspended for shard in item.shards or ())
    ),
    "limited": lambda item: max((use.share or 0 for use in item.limits), default=0),
    "denied": lambda item: item.recent,
    "due": lambda item: item.tokens.due,
    "tokens": lambda item: item.tokens.live,
}
"""Numbers to select identities by, from 1 on, and to sort by, the highest first."""


@operation("status")
def read_snapshot(
    store: Store,
    *identities: IdentityName,
    only: str | None = None,
    sort: str | None = None,
    limit: Count | None = None,
) -> Snapshot:
    """Return identities with their tokens, limits and recent denials.

    Args:
        identities: Names; all of the active policy if none is given.
        only: Only those that are `suspended`, `limited` by a limit that is used up, recently
            `denied`, or that have `tokens` or one that is `due` for rotation.
        sort: The highest of these numbers first; of limits the used share.
        limit: The maximum number of identities.

    Raises:
        OperationError (unknown-identity): the active policy has no such identity.
    """
    if {only, sort} - {None, *MEASURES}:
        raise ValueError(f"`only` and `sort` must be one of {', '.join(MEASURES)}")
    for name in identities:
        active_identity(store, name)
    now_ms = store.now_ms()
    active = read_active(store)
    found = [] if active is None else identity_statuses(store, active, now_ms, identities)
    if only is not None:
        found = [item for item in found if MEASURES[only](item) >= 1]
    if sort is not None:
        found.sort(key=MEASURES[sort], reverse=True)
    shown = tuple(found[:limit])
    primary = ""
    with suppress(ResponseError):
        primary = str(primary_of(info_section(store.client, "replication")) or "")
    cluster = read_cluster(store, active)
    return Snapshot(now_ms, active, shown, cluster, primary)
