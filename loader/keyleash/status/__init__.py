"""A snapshot of a server and its identities, which `status` and metrics show."""

from keyleash.status.identities import (
    IdentityStatus,
    LimitUse,
    RecentDenials,
    TokenCount,
    identity_statuses,
    limit_uses,
)
from keyleash.status.shards import ClusterStatus, LeasedLimit, ShardStatus
from keyleash.status.snapshot import MEASURES, Snapshot, read_snapshot

__all__ = [
    "MEASURES",
    "ClusterStatus",
    "IdentityStatus",
    "LeasedLimit",
    "LimitUse",
    "RecentDenials",
    "ShardStatus",
    "Snapshot",
    "TokenCount",
    "identity_statuses",
    "limit_uses",
    "read_snapshot",
]
