"""An identity that machines and people seem to share."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import PERIOD_US, SECOND_US, Identity, Kind, Limit, Policy, Rate
from keyleash.policy.problems import quote

CODE = "mixed-duties"

WORDS = {
    Kind.HUMAN: frozenset(
        {"human", "humans", "person", "people", "admin", "oncall", "staff", "interactive"}
    ),
    Kind.MACHINE: frozenset(
        {"agent", "agents", "bot", "bots", "worker", "workers", "cron", "ci", "daemon", "machine"}
    ),
}
"""Words of a name that say who acts. What could be either's, such as `support`, says nothing."""

MAX_PER_MINUTE = 600
MAX_PER_DAY = 100_000
"""More than a person at a prompt does, pasted scripts included."""

_DAY_US = 86_400 * SECOND_US


def mixed_duties(policy: Policy) -> Iterator[Finding]:
    """Find names that tell of the other kind, and people who are given a machine's pace."""
    for identity in policy.identities:
        yield from _by_name(identity)
        if identity.kind is Kind.HUMAN:
            yield from _by_pace(identity)


def _by_name(identity: Identity) -> Iterator[Finding]:
    other = Kind.HUMAN if identity.kind is Kind.MACHINE else Kind.MACHINE
    told = sorted(WORDS[other].intersection(identity.name.split("-")))
    if told:
        yield finding(
            identity,
            CODE,
            f"the {identity.kind} identity {quote(identity.name)} is named after a {other}'s duty,"
            f" {quote(told[0])}",
            identity.span,
            "give machines and people an identity each, and name them after who acts",
        )


def _by_pace(identity: Identity) -> Iterator[Finding]:
    for limit in identity.limits:
        if _is_machine_paced(limit):
            yield finding(
                identity,
                CODE,
                f"`{limit.name}` gives the human identity {quote(identity.name)} a pace"
                " that no person needs",
                limit.span,
                "give what runs at such a pace a machine identity of its own, and write at most"
                f" {MAX_PER_MINUTE}/minute or {MAX_PER_DAY}/day here",
            )


def _is_machine_paced(limit: Limit) -> bool:
    if isinstance(limit, Rate):
        return limit.limit * 60 * SECOND_US > MAX_PER_MINUTE * limit.period_us
    return limit.limit * _DAY_US > MAX_PER_DAY * PERIOD_US[limit.period]
