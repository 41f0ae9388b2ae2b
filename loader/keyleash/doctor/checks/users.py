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
    Look at the user that a connection has before it logs in.

    Args:
        are_fenced: Whether agents have users of their own, which they could then do without.
    """
    try:
        said = server.client.acl_getuser("default")
    except ResponseError as error:
        yield Skipped("default user", f"the server's users cannot be read: {error}", server.name)
        return
    with reading_reply("ACL"):
        is_open = {"on", "nopass"} <= set(said["flags"]) and _may_everything(said)
    if not is_open:
        return
    yield DoctorFinding(
        DEFAULT_USER,
        Severity.ERROR if are_fenced else Severity.WARNING,
        "the user `default` needs no password and may do everything: whoever reaches the server"
        " goes past every guard",
        "make a user for operators, put it into KEYLEASH_URL, then `ACL SETUSER default off`; or"
        " set `requirepass`, which is the password of `default`",
        server.name,
    )


def _may_everything(said: Mapping[str, Any]) -> bool:
    """Also with some commands taken away: what is left is enough."""
    return "+@all" in said["categories"] and "~*" in said["keys"]


DRIFT = "fence-differs"
FOREIGN = "fence-foreign"
UNFENCED = "not-fenced"
APPLY = "`keyleash fence plan` says what `keyleash fence apply` would change"


def check_fences(
    deployment: Deployment,
    keyspace: Keyspace,
    guards: Sequence[CompiledGuard],
    records: Mapping[str, FenceRecord],
) -> Iterator[CheckResult]:
    """
    Compare users with what `fence apply` would make.

    Args:
        guards: Of the active policy, as they are recorded.
        records: What is known of the users; not empty.
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
            f"the user `{step.identity}` is not one of this policy: {why}",
            "rename or delete it, then `keyleash fence apply`",
            step.node.name,
        )
    elif step.kind in CHANGES and step.identity in records:
        yield DoctorFinding(
            DRIFT,
            Severity.ERROR,
            f"the user `{step.identity}` is not as the policy means it: {why}",
            APPLY,
            step.node.name,
        )
    elif step.kind in CHANGES or step.kind is AclStepKind.HELD:
        yield DoctorFinding(
            UNFENCED,
            Severity.WARNING,
            f"`{step.identity}` has no ACL user while others have: its agent is bound by its"
            " wrapper alone",
            APPLY,
            step.node.name,
        )
