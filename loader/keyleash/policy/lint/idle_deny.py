"""Deny rules that refuse nothing."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import Policy
from keyleash.policy.pattern_relations import overlaps
from keyleash.policy.problems import quote

CODE = "idle-deny"


def idle_deny(policy: Policy) -> Iterator[Finding]:
    """Find denied patterns that have no key in common with any granted one."""
    for identity in policy.identities:
        granted = [pattern for grant in identity.grants for pattern in grant.keys]
        for deny in identity.deny:
            for pattern in deny.keys:
                if not any(overlaps(pattern, one) for one in granted):
                    yield finding(
                        identity,
                        CODE,
                        f"no grant has a key in common with the denied pattern"
                        f" {quote(pattern.source)}",
                        pattern.span,
                        "correct its spelling, or remove it: what no grant allows is refused"
                        " anyway",
                    )
