"""Whether agents' ACL users are as the policy means them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from keyleash.compiler import CompiledGuard
from keyleash.doctor.finding import Finding, Said, Severity
from keyleash.doctor.patient import Deployment
from keyleash.fence import How, Node, Record, Step, plan_node, read_facts, wanted_users
from keyleash.fence.plan import CHANGES
from keyleash.protocol.keyspace import Keyspace

DRIFT = "fence-differs"
FOREIGN = "fence-foreign"
UNFENCED = "not-fenced"
APPLY = "`keyleash fence plan` says what `keyleash fence apply` would change"


def check_fences(
    deployment: Deployment,
    keyspace: Keyspace,
    guards: Sequence[CompiledGuard],
    records: Mapping[str, Record],
) -> Iterator[Said]:
    """
    Compare users with what `fence apply` would make.

    Args:
        guards: Of the active policy, as they are recorded.
        records: What is known of the users; not empty.
    """
    nodes = [Node(one.name, one.client) for one in deployment.answering]
    facts = read_facts([node.client for node in nodes], keyspace)
    wanted = wanted_users(deployment.main.client, keyspace, guards, facts, records)
    for node in nodes:
        for step in plan_node(node, keyspace, facts.database, wanted, records):
            yield from _finding(step, records)


def _finding(step: Step, records: Mapping[str, Record]) -> Iterator[Finding]:
    why = "; ".join(step.reasons)
    if step.how is How.FOREIGN:
        yield Finding(
            FOREIGN,
            Severity.ERROR,
            f"the user `{step.identity}` is not one of this policy: {why}",
            "rename or delete it, then `keyleash fence apply`",
            step.node.name,
        )
    elif step.how in CHANGES and step.identity in records:
        yield Finding(
            DRIFT,
            Severity.ERROR,
            f"the user `{step.identity}` is not as the policy means it: {why}",
            APPLY,
            step.node.name,
        )
    elif step.how in CHANGES or step.how is How.HELD:
        yield Finding(
            UNFENCED,
            Severity.WARNING,
            f"`{step.identity}` has no ACL user while others have: its agent is bound by its"
            " wrapper alone",
            APPLY,
            step.node.name,
        )
