"""How a server and its identities stand, in numbers: what status and metrics both show."""

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
