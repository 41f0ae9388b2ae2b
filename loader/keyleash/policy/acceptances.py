"""What an identity accepts of lint's findings, each with the reason."""

from __future__ import annotations

from keyleash.policy.model import Acceptance
from keyleash.policy.node import Node
from keyleash.policy.problems import Problems, quote


def read_acceptances(node: Node | None, problems: Problems) -> tuple[Acceptance, ...]:
    """
    The entries of an `accept` mapping, in file order.

    Whether there is such a finding is lint's to say: a policy goes on being valid where a
    rule is gone.
    """
    found = []
    for code, reason in node.fields.items() if node else ():
        if not reason.source.strip():
            problems.add(
                "empty-reason",
                f"{quote(code)} is accepted without a reason",
                reason.span,
                "write why it may stand, for whoever reads the policy next",
            )
        found.append(Acceptance(code, reason.source, reason.label))
    return tuple(found)
