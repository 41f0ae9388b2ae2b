"""
ACL users for agents, generated from the policy.

A guard runs with the rights of its caller, so its agent needs these rights, too. A fenced agent
cannot leave the keys and commands of its grants, load code or list keys. It can run single commands
on its own keys without audit and limits, and change its own counters and audit records, because the
guard must be able to; see docs/how-to/fence.md.
"""

from keyleash.fence.acl_steps import AclStep, AclStepKind, FencePlan, plan_fences
from keyleash.fence.apply import FenceOutcome, apply_fences, remove_fences
from keyleash.fence.desired import DesiredUser, desired_users, with_first_passwords
from keyleash.fence.rotate import PasswordRotation, add_passwords, drop_old_passwords
from keyleash.fence.rules import Fence
from keyleash.fence.servers import FencedServers, FencedUser
from keyleash.store.fences import (
    FenceRecord,
    GeneratedPassword,
    Tier,
    generate_password,
    read_records,
)

__all__ = [
    "AclStep",
    "AclStepKind",
    "DesiredUser",
    "Fence",
    "FenceOutcome",
    "FencePlan",
    "FenceRecord",
    "FencedServers",
    "FencedUser",
    "GeneratedPassword",
    "PasswordRotation",
    "Tier",
    "add_passwords",
    "apply_fences",
    "desired_users",
    "drop_old_passwords",
    "generate_password",
    "plan_fences",
    "read_records",
    "remove_fences",
    "with_first_passwords",
]
