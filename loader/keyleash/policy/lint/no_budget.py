"""A machine that changes keys, and no budget stops it."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.policy.lint.changes import COUNTERS, unbound_changes
from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import Kind, Policy
from keyleash.policy.problems import listing, quote

CODE = "no-budget"


def no_budget(policy: Policy) -> Iterator[Finding]:
    """Find machine identities with a class that changes keys and counts towards no budget."""
    for identity in policy.identities:
        if identity.kind is not Kind.MACHINE:
            continue
        unbound = unbound_changes(identity, identity.budgets)
        if unbound:
            counter = COUNTERS[unbound[0]]
            yield finding(
                identity,
                CODE,
                f"the machine identity {quote(identity.name)} may {listing(unbound)}"
                " without a budget",
                identity.span,
                f"add one, such as `budget: {{{counter}: 50000/day}}`,"
                " so that a slow loop ends within the day",
            )
