"""People whose sessions stay open when they leave."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import Kind, Policy
from keyleash.policy.problems import quote

CODE = "no-idle-timeout"


def no_idle_timeout(policy: Policy) -> Iterator[Finding]:
    """Find human identities whose tokens do not expire when they are not used."""
    for identity in policy.identities:
        if identity.kind is Kind.HUMAN and identity.token.idle_s is None:
            yield finding(
                identity,
                CODE,
                f"a token of the human identity {quote(identity.name)} stays good while nobody"
                " uses it",
                identity.span,
                "add `token: {idle: 15m}`",
            )
