"""How a server and its identities stand, in numbers: what status and metrics both show."""

from keyleash.status.identities import IdentityStatus, identity_statuses
from keyleash.status.refusals import Refusals
from keyleash.status.snapshot import Snapshot, read_snapshot
from keyleash.status.tokens import OldestToken, TokenCount
from keyleash.status.usage import LimitUse, limit_uses

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
