"""A machine that changes keys, and no rate stops it."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.policy.lint.changes import COUNTERS, unbound_changes
from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import Kind, Policy
from keyleash.policy.problems import listing, quote

CODE = "no-rate"


def no_rate(policy: Policy) -> Iterator[Finding]:
    """Find machine identities with a class that changes keys and counts towards no rate."""
    for identity in policy.identities:
        if identity.kind is not Kind.MACHINE:
            continue
        unbound = unbound_changes(identity, identity.rates)
        if unbound:
            counter = COUNTERS[unbound[0]]
            yield finding(
                identity,
                CODE,
                f"the machine identity {quote(identity.name)} may {listing(unbound)}"
                " without a rate",
                identity.span,
                f"add one, such as `rate: {{{counter}: 600/minute}}`,"
                " so that a loop is slowed down before it does harm",
            )
