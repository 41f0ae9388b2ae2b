"""A machine that may touch every key, or publish on every channel."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import AnySuffix, Kind, Policy

CODE = "bare-wildcard"


def bare_wildcard(policy: Policy) -> Iterator[Finding]:
    """Find each `*` among the granted patterns of machine identities."""
    for identity in policy.identities:
        if identity.kind is not Kind.MACHINE:
            continue
        for grant in identity.grants:
            for thing, patterns in (("key", grant.keys), ("channel", grant.channels)):
                for pattern in patterns:
                    if pattern.parts == (AnySuffix(),):
                        yield finding(
                            identity,
                            CODE,
                            f"a machine is granted every {thing}",
                            pattern.span,
                            f"name the {thing}s of its job, such as `agents:jobs:*`;"
                            " what needs all of them is a person's work",
                        )
