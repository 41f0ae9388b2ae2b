"""Findings that the document accepts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from keyleash.errors import Problem
from keyleash.policy.lint.findings import LintFinding, finding_about
from keyleash.policy.model import Acceptance, Identity, Policy
from keyleash.policy.problems import did_you_mean, listing, quote

NEEDLESS = "needless-accept"
"""The code of an acceptance of what is not found."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A finding that is let stand, and why."""

    identity: str
    problem: Problem
    reason: str


def accept(
    policy: Policy, findings: Iterable[LintFinding], known: Collection[str]
) -> tuple[Sequence[LintFinding], Sequence[Accepted]]:
    """
    Part findings into those that remain and those that the document accepts.

    Args:
        policy: Whose acceptances count, each for its own identity.
        findings: All there are.
        known: The codes that findings may have.

    Returns:
        What remains, with what is accepted in vain, and what is accepted.
    """
    reasons = {
        (identity.name, item.code): item.reason
        for identity in policy.identities
        for item in identity.accepted
    }
    remaining, accepted, used = [], [], set()
    for finding in findings:
        place = (finding.identity, finding.problem.code)
        if place in reasons:
            used.add(place)
            accepted.append(Accepted(finding.identity, finding.problem, reasons[place]))
        else:
            remaining.append(finding)
    return [*remaining, *_needless(policy, used, known)], accepted


def _needless(
    policy: Policy, used: Collection[tuple[str, str]], known: Collection[str]
) -> Iterator[LintFinding]:
    for identity in policy.identities:
        for item in identity.accepted:
            if (identity.name, item.code) not in used:
                yield _finding(identity, item, known)


def _finding(identity: Identity, acceptance: Acceptance, known: Collection[str]) -> LintFinding:
    if acceptance.code in known:
        message, help = f"there is no {quote(acceptance.code)} to accept here", "remove it"
    else:
        message = f"no finding is called {quote(acceptance.code)}"
        help = did_you_mean(acceptance.code, known, f"the findings are {listing(known)}")
    return finding_about(identity, NEEDLESS, message, acceptance.span, help)
