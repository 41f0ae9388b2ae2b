"""A snapshot of a server and its identities, which `status` and metrics show."""

from keyleash.status.identities import (
    IdentityStatus,
    LimitUse,
    OldestToken,
    Refusals,
    TokenCount,
    identity_statuses,
    limit_uses,
)
from keyleash.status.snapshot import Snapshot, read_snapshot

__all__ = [
    "IdentityStatus",
    "LimitUse",
    "OldestToken",
    "Refusals",
    "Snapshot",
    "TokenCount",
    "identity_statuses",
    "limit_uses",
    "read_snapshot",
]
