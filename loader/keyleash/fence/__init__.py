"""
ACL users for agents, made from the policy: what binds an agent that does without the wrapper.

A guard runs with the rights of whoever calls it, so its agent has these rights, too. Fenced,
an agent cannot leave the keys and commands of its grants, load code or list keys. It can
run single commands on its own keys that nobody audits or counts, and change what is counted
and recorded of itself, since the guard must; see docs/how-to/fence.md.
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
