"""Budgets that are never used up, as a rate stops the calls before."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import (
    PERIOD_US,
    SECOND_US,
    Budget,
    Counter,
    Identity,
    Period,
    Policy,
    Rate,
    SubjectKind,
)

CODE = "unreachable-budget"

LONGEST_SHIFT_US = 3600 * SECOND_US
"""By how much a change of a zone's clock makes a window longer."""


def unreachable_budget(policy: Policy) -> Iterator[Finding]:
    """Find budgets over what the identity's rates let through within a whole window."""
    for identity in policy.identities:
        for budget in identity.budgets:
            yield from _unreachable(identity, budget)


def _unreachable(identity: Identity, budget: Budget) -> Iterator[Finding]:
    slower = [
        (most, rate)
        for rate in identity.rates
        if _counts_all_of(rate, budget) and (most := _most(rate, budget)) < budget.limit
    ]
    if slower:
        most, rate = min(slower, key=lambda one: one[0])
        yield finding(
            identity,
            CODE,
            f"`{budget.name}` allows {budget.limit} calls per {budget.period}, and `{rate.name}`"
            f" lets at most {most} through in that time",
            budget.span,
            "lower the budget to what the job needs, or leave it out",
        )


def _counts_all_of(rate: Rate, budget: Budget) -> bool:
    """Whether the rate has one counter for all calls that one counter of the budget has."""
    if rate.counter not in (Counter.REQUESTS, budget.counter):
        return False
    return rate.subject.kind is SubjectKind.IDENTITY or rate.subject == budget.subject


def _most(rate: Rate, budget: Budget) -> int:
    """How many calls the rate lets through in the longest window of the budget, at most."""
    window_us = PERIOD_US[budget.period]
    if budget.timezone != "UTC" and budget.period is not Period.MINUTE:
        window_us += LONGEST_SHIFT_US
    if rate.burst is None:
        return rate.limit * -(-window_us // rate.period_us)
    return rate.burst + rate.limit * window_us // rate.period_us
