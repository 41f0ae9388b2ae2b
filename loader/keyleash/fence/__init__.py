"""
ACL users for agents, generated from the policy.

A guard runs with the rights of its caller, so its agent needs these rights, too. A fenced agent
cannot leave the keys and commands of its grants, load code or list keys. It can run single commands
on its own keys without audit and limits, and change its own counters and audit records, because the
guard must be able to; see docs/how-to/fence.md.
"""

from keyleash.fence.apply import (
    FenceOutcome,
    ForeignUserError,
    apply_fences,
    remove_fences,
)
from keyleash.fence.plan import (
    AclStep,
    AclStepKind,
    DesiredUser,
    FenceNode,
    desired_users,
    plan_node,
    with_passwords,
)
from keyleash.fence.record import (
    FenceRecord,
    GeneratedPassword,
    Tier,
    generate_password,
    read_records,
)
from keyleash.fence.rotate import (
    NotFencedError,
    RotationUnfinishedError,
    add_passwords,
    drop_old_passwords,
)
from keyleash.fence.rules import Fence, ServerFacts, fence_of, read_server_facts, script_calls

__all__ = [
    "AclStep",
    "AclStepKind",
    "DesiredUser",
    "Fence",
    "FenceNode",
    "FenceOutcome",
    "FenceRecord",
    "ForeignUserError",
    "GeneratedPassword",
    "NotFencedError",
    "RotationUnfinishedError",
    "ServerFacts",
    "Tier",
    "add_passwords",
    "apply_fences",
    "desired_users",
    "drop_old_passwords",
    "fence_of",
    "generate_password",
    "plan_node",
    "read_records",
    "read_server_facts",
    "remove_fences",
    "script_calls",
    "with_passwords",
]
