"""Checks of ACL users and fences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redis.exceptions import ResponseError

from keyleash.compiler import CompiledGuard
from keyleash.doctor.deployment import Deployment, Server
from keyleash.doctor.findings import CheckResult, DoctorFinding, Severity, Skipped
from keyleash.fence import (
    AclStep,
    AclStepKind,
    FenceNode,
    FenceRecord,
    desired_users,
    plan_node,
    read_server_facts,
)
from keyleash.fence.plan import CHANGES
from keyleash.store.keyspace import Keyspace
from keyleash.store.wire import reading_reply

DEFAULT_USER = "open-default-user"


def check_default_user(server: Server, *, are_fenced: bool) -> Iterator[CheckResult]:
    """
    Check the user of connections that have not logged in.

    Args:
        are_fenced: Whether agents have ACL users, which this user would bypass.
    """
    try:
        user = server.client.acl_getuser("default")
    except ResponseError as error:
        yield Skipped("default user", f"the server's users cannot be read: {error}", server.name)
        return
    with reading_reply("ACL"):
        is_open = {"on", "nopass"} <= set(user["flags"]) and _may_everything(user)
    if not is_open:
        return
    yield DoctorFinding(
        DEFAULT_USER,
        Severity.ERROR if are_fenced else Severity.WARNING,
        "the user `default` needs no password and may do everything: every connection can bypass"
        " the guards",
        "create a user for operators, set it in KEYLEASH_URL, then `ACL SETUSER default off`; or"
        " set `requirepass`, which is the password of `default`",
        server.name,
    )


def _may_everything(user: Mapping[str, Any]) -> bool:
    """Return whether it has all keys and commands, even with some commands removed."""
    return "+@all" in user["categories"] and "~*" in user["keys"]


DRIFT = "fence-differs"
FOREIGN = "fence-foreign"
UNFENCED = "not-fenced"
APPLY = "`keyleash fence plan` shows what `keyleash fence apply` would change"


def check_fences(
    deployment: Deployment,
    keyspace: Keyspace,
    guards: Sequence[CompiledGuard],
    records: Mapping[str, FenceRecord],
) -> Iterator[CheckResult]:
    """
    Compare users with those that `fence apply` would make.

    Args:
        guards: The guards of the active policy.
        records: The records of the users; not empty.
    """
    nodes = [FenceNode(item.name, item.client) for item in deployment.answering]
    facts = read_server_facts([node.client for node in nodes], keyspace)
    wanted = desired_users(deployment.main.client, keyspace, guards, facts, records)
    for node in nodes:
        for step in plan_node(node, keyspace, facts.database, wanted, records):
            yield from _finding(step, records)


def _finding(step: AclStep, records: Mapping[str, FenceRecord]) -> Iterator[DoctorFinding]:
    why = "; ".join(step.reasons)
    if step.kind is AclStepKind.FOREIGN:
        yield DoctorFinding(
            FOREIGN,
            Severity.ERROR,
            f"the user `{step.identity}` was not made for this policy: {why}",
            "rename or delete it, then `keyleash fence apply`",
            step.node.name,
        )
    elif step.kind in CHANGES and step.identity in records:
        yield DoctorFinding(
            DRIFT,
            Severity.ERROR,
            f"the user `{step.identity}` differs from the policy: {why}",
            APPLY,
            step.node.name,
        )
    elif step.kind in CHANGES or step.kind is AclStepKind.HELD:
        yield DoctorFinding(
            UNFENCED,
            Severity.WARNING,
            f"`{step.identity}` has no ACL user while others have: only its client is guarded",
            APPLY,
            step.node.name,
        )
