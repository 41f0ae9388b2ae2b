"""The semantic difference of two policies: what each identity may do now and might not before."""

from keyleash.policy.diff.changes import Change, IdentityDiff, Part, PolicyDiff
from keyleash.policy.diff.gains import Gain
from keyleash.policy.diff.identities import diff_identities, diff_policies

__all__ = [
    "Change",
    "Gain",
    "IdentityDiff",
    "Part",
    "PolicyDiff",
    "diff_identities",
    "diff_policies",
]
