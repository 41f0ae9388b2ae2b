"""A snapshot of a server and its identities, which `status` and metrics show."""

from keyleash.status.identities import (
    IdentityStatus,
    LimitUse,
    RecentDenials,
    TokenCount,
    identity_statuses,
    limit_uses,
)
from keyleash.status.snapshot import Snapshot, read_snapshot

__all__ = [
    "IdentityStatus",
    "LimitUse",
    "RecentDenials",
    "Snapshot",
    "TokenCount",
    "identity_statuses",
    "limit_uses",
    "read_snapshot",
]
