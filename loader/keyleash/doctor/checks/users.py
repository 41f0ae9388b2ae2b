"""Checks of ACL users and fences."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.doctor.context import Context
from keyleash.doctor.findings import DoctorFinding, Severity, finding
from keyleash.fence.acl_steps import CHANGES, AclStepKind, plan_fences
from keyleash.fence.desired import desired_users
from keyleash.fence.servers import FencedServers
from keyleash.operator.load.compile import PreparedPolicy
from keyleash.store.deployment import Server
from keyleash.store.server import denied_commands
from keyleash.store.users import is_default_user_open


def check_default_user(context: Context, server: Server) -> Iterator[DoctorFinding]:
    """Check the user of connections that have not logged in."""
    if is_default_user_open(server.client):
        # It bypasses the users of agents.
        severity = Severity.ERROR if context.fences else Severity.WARNING
        yield finding("open-default-user", server.name, severity)


def check_commands(context: Context, server: Server) -> Iterator[DoctorFinding]:
    """Try commands that managed servers, or rules of the user, may deny."""
    for name, reason in denied_commands(server.client, context.keyspace.policy).items():
        yield finding("command-denied", server.name, name=name, reason=reason)


def check_fences(context: Context, prepared: PreparedPolicy) -> Iterator[DoctorFinding]:
    """Compare users with those that `fence apply` would make."""
    servers = FencedServers(context.store_of(context.main), context.answering, context.fences)
    for step in plan_fences(servers, desired_users(servers, prepared.guards)):
        if step.kind is AclStepKind.FOREIGN:
            code = "fence-foreign"
        elif step.kind in CHANGES and step.identity in context.fences:
            code = "fence-differs"
        elif step.kind in CHANGES or step.kind is AclStepKind.HELD:
            code = "not-fenced"
        else:
            continue
        reasons = "; ".join(step.reasons)
        yield finding(code, step.node.name, identity=step.identity, reasons=reasons)
