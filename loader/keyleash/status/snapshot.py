"""A snapshot of a server."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keyleash.results import Instant, Result
from keyleash.status.identities import RECENT_S, IdentityStatus, identity_statuses
from keyleash.status.shards import ClusterStatus, read_cluster
from keyleash.store.records import ActivePolicy, read_active
from keyleash.store.store import Store
from keyleash.text import json_object


@dataclass(frozen=True, slots=True)
class Snapshot(Result):
    """
    A server and its identities at one moment.

    Attributes:
        now_ms: Server time, Unix milliseconds.
        is_sealed: Whether its keys are in a vault.
        active: The active policy, if any.
        identities: The identities of that policy, in its order.
        cluster: The cluster; None on one server.
    """

    now_ms: int
    is_sealed: bool
    active: ActivePolicy | None
    identities: tuple[IdentityStatus, ...] = ()
    cluster: ClusterStatus | None = None

    now = Instant[datetime]("now_ms")

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as `keyleash status --json` prints it, without the server."""
        policy = ("digest", "generation", "transport", "activated_ms", "by=actor")
        return {
            **json_object(self, "at=now_ms", "sealed=is_sealed"),
            "policy": self.active and json_object(self.active, *policy),
            "denials_s": RECENT_S,
            "identities": [item.to_dict() for item in self.identities],
            **({} if self.cluster is None else json_object(self, "cluster")),
        }

    @property
    def tiers(self) -> Counter[str]:
        """The number of identities of each tier."""
        return Counter(identity.tier for identity in self.identities)


def read_snapshot(store: Store) -> Snapshot:
    """
    Read the snapshot of a server; nothing is written.

    Args:
        store: The server; its user must be able to read the control keys.

    Raises:
        redis.RedisError: The server cannot be read.
    """
    now_ms = store.now_ms()
    active = read_active(store)
    found = () if active is None else tuple(identity_statuses(store, active, now_ms))
    return Snapshot(now_ms, bool(store.keys.vault), active, found, read_cluster(store))
