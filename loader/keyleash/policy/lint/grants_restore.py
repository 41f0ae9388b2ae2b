"""Grants that name RESTORE."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import Policy
from keyleash.policy.problems import quote
from keyleash.policy.reach import gives_restore

CODE = "grants-restore"


def grants_restore(policy: Policy) -> Iterator[Finding]:
    """Find grants that allow RESTORE."""
    for identity in policy.identities:
        for grant in identity.grants:
            if gives_restore(grant):
                yield finding(
                    identity,
                    CODE,
                    f"{quote(identity.name)} may RESTORE any payload, and a corrupt one can crash"
                    " the server",
                    grant.span,
                    "remove `RESTORE` from `only`, or keep the server up to date with"
                    " `sanitize-dump-payload yes` and accept this finding",
                )
