"""The semantic difference of two policies: calls and rules that each identity gains or loses."""

from keyleash.policy.diff.changes import IdentityDiff, Part, PolicyChange
from keyleash.policy.diff.compare import PolicyDiff, diff_identities, diff_policies
from keyleash.policy.diff.permissions import Gain

__all__ = [
    "Gain",
    "IdentityDiff",
    "Part",
    "PolicyChange",
    "PolicyDiff",
    "diff_identities",
    "diff_policies",
]
