"""Deny rules that refuse nothing."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import Identity, Policy
from keyleash.policy.pattern_tree import PatternTree
from keyleash.policy.problems import quote

CODE = "idle-deny"


def idle_deny(policy: Policy) -> Iterator[Finding]:
    """Find denied patterns that have no key in common with any granted one."""
    for identity in policy.identities:
        granted = granted_keys(identity)
        for deny in identity.deny:
            for pattern in deny.keys:
                if not granted.overlaps(pattern):
                    yield finding(
                        identity,
                        CODE,
                        f"no grant has a key in common with the denied pattern"
                        f" {quote(pattern.source)}",
                        pattern.span,
                        "correct its spelling, or remove it: what no grant allows is refused"
                        " anyway",
                    )


def granted_keys(identity: Identity) -> PatternTree[None]:
    """The key patterns of all grants of an identity."""
    return PatternTree((pattern, None) for grant in identity.grants for pattern in grant.keys)
