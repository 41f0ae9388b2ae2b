"""
ACL users for agents, made from the policy: what binds an agent that does without the wrapper.

A guard runs with the rights of whoever calls it, so its agent has these rights, too. Fenced,
an agent cannot leave the keys and commands of its grants, load code or list keys. It can
run single commands on its own keys that nobody audits or counts, and change what is counted
and recorded of itself, since the guard must; see docs/fence.md.
"""

from keyleash.fence.acl import UnsayablePatternError
from keyleash.fence.apply import (
    FenceNotVerifiedError,
    FenceOutcome,
    ForeignUserError,
    apply_fences,
    remove_fences,
)
from keyleash.fence.plan import (
    AclStep,
    AclStepKind,
    FenceNode,
    NotActivePolicyError,
    Wanted,
    plan_node,
    wanted_users,
    with_passwords,
)
from keyleash.fence.record import Minted, Record, Tier, mint, read_records
from keyleash.fence.rotate import (
    NotFencedError,
    RotationUnfinishedError,
    add_passwords,
    drop_old_passwords,
)
from keyleash.fence.rules import Facts, Fence, fence_of, read_facts, script_calls

__all__ = [
    "AclStep",
    "AclStepKind",
    "Facts",
    "Fence",
    "FenceNode",
    "FenceNotVerifiedError",
    "FenceOutcome",
    "ForeignUserError",
    "Minted",
    "NotActivePolicyError",
    "NotFencedError",
    "Record",
    "RotationUnfinishedError",
    "Tier",
    "UnsayablePatternError",
    "Wanted",
    "add_passwords",
    "apply_fences",
    "drop_old_passwords",
    "fence_of",
    "mint",
    "plan_node",
    "read_facts",
    "read_records",
    "remove_fences",
    "script_calls",
    "wanted_users",
    "with_passwords",
]
