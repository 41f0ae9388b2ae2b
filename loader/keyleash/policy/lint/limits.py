"""Lint rules about limits, token lifetimes and retention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from keyleash.commands import OperationClass
from keyleash.limits import SECOND_US, Budget, Counter, Period, Rate, SubjectKind
from keyleash.limits.calendar import PERIOD_US
from keyleash.policy.lint.findings import (
    COUNTERS,
    LintFinding,
    counter_of,
    finding_about,
    unbound_changes,
)
from keyleash.policy.model import Identity, IdentityKind, Policy
from keyleash.policy.problems import listing, quote
from keyleash.policy.quantities import format_duration

NO_BUDGET = "no-budget"


def no_budget(policy: Policy) -> Iterator[LintFinding]:
    """Find machine identities with a class that changes keys and counts towards no budget."""
    for identity in policy.identities:
        if identity.kind is not IdentityKind.MACHINE:
            continue
        unbound = unbound_changes(identity, identity.budgets)
        if unbound:
            counter = COUNTERS[unbound[0]]
            yield finding_about(
                identity,
                NO_BUDGET,
                f"the machine identity {quote(identity.name)} may {listing(unbound)}"
                " without a budget",
                identity.span,
                f"add one, such as `budget: {{{counter}: 50000/day}}`,"
                " so that a slow loop ends within the day",
            )


NO_RATE = "no-rate"


def no_rate(policy: Policy) -> Iterator[LintFinding]:
    """Find machine identities with a class that changes keys and counts towards no rate."""
    for identity in policy.identities:
        if identity.kind is not IdentityKind.MACHINE:
            continue
        unbound = unbound_changes(identity, identity.rates)
        if unbound:
            counter = COUNTERS[unbound[0]]
            yield finding_about(
                identity,
                NO_RATE,
                f"the machine identity {quote(identity.name)} may {listing(unbound)}"
                " without a rate",
                identity.span,
                f"add one, such as `rate: {{{counter}: 600/minute}}`,"
                " so that a loop is slowed down before it does harm",
            )


UNREACHABLE_BUDGET = "unreachable-budget"

LONGEST_SHIFT_US = 3600 * SECOND_US
"""By how much a change of a zone's clock makes a window longer."""


def unreachable_budget(policy: Policy) -> Iterator[LintFinding]:
    """Find budgets over what the identity's rates let through within a whole window."""
    for identity in policy.identities:
        for budget in identity.budgets:
            yield from _unreachable(identity, budget)


def _unreachable(identity: Identity, budget: Budget) -> Iterator[LintFinding]:
    slower = [
        (most, rate)
        for rate in identity.rates
        if _counts_all_of(rate, budget) and (most := _most(rate, budget)) < budget.limit
    ]
    if slower:
        most, rate = min(slower, key=lambda item: item[0])
        yield finding_about(
            identity,
            UNREACHABLE_BUDGET,
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


SHORT_RETENTION = "short-retention"

UNBOUND_PER_DAY = 10_000
"""What is taken for a day's calls where no budget says it."""


def short_retention(policy: Policy) -> Iterator[LintFinding]:
    """Find identities that may delete and whose events are gone within a day, or a token's life."""
    for identity in policy.identities:
        grant = next(
            (item for item in identity.grants if OperationClass.DELETE in item.allow), None
        )
        said = _too_short(identity) if grant else None
        if grant and said:
            message, help = said
            yield finding_about(
                identity,
                SHORT_RETENTION,
                f"{quote(identity.name)} may delete, and {message}",
                grant.span,
                help,
            )


def _too_short(identity: Identity) -> tuple[str, str] | None:
    """What is wrong with the retention, and what to write instead."""
    rules, life_s = identity.audit, identity.token.max_ttl_s
    if rules.retain_s is not None and rules.retain_s < life_s:
        return (
            f"its events go after `{format_duration(rules.retain_s)}`, while a token may live for"
            f" `{format_duration(life_s)}`",
            f"write `audit: {{retain: {format_duration(life_s)}}}` or more",
        )
    day = _entries_per_day(identity)
    if rules.retain is not None and rules.retain < day:
        return (
            f"its trail keeps {rules.retain} entries, where a day may bring {day}",
            f"write `audit: {{retain: {day}}}` or more, or a lower budget",
        )
    return None


def _entries_per_day(identity: Identity) -> int:
    """How many entries the budgets let into the trail within one day."""
    recorded = [
        cls
        for cls in (*COUNTERS, *([OperationClass.READ] if identity.audit.reads else []))
        if any(cls in grant.allow for grant in identity.grants)
    ]
    by_class = [
        _least(budget for budget in identity.budgets if budget.counter is counter_of(cls))
        for cls in recorded
    ]
    bounds = [
        _least(budget for budget in identity.budgets if budget.counter is Counter.REQUESTS),
        None if None in by_class else sum(item for item in by_class if item is not None),
    ]
    calls = min((bound for bound in bounds if bound is not None), default=UNBOUND_PER_DAY)
    # An event with before-images is followed by another, of what it left.
    return calls * (2 if _keeps_images(identity) else 1)


def _least(budgets: Iterable[Budget]) -> int | None:
    """Calls that the strictest of *budgets* allows within a day; each token's own say nothing."""
    allowed = (
        budget.limit * max(1, PERIOD_US[Period.DAY] // PERIOD_US[budget.period])
        for budget in budgets
        if budget.subject.kind is SubjectKind.IDENTITY
    )
    return min(allowed, default=None)


def _keeps_images(identity: Identity) -> bool:
    own = (grant.image_bytes for grant in identity.grants)
    return any(identity.audit.image_bytes if size is None else size for size in own)


LONG_LIVED_TOKEN = "long-lived-token"

MAX_S = {IdentityKind.MACHINE: 7 * 86_400, IdentityKind.HUMAN: 8 * 3600}
"""A week between deploys; a working day."""


def long_lived_token(policy: Policy) -> Iterator[LintFinding]:
    """Find identities whose tokens live, or may be made to live, longer than their kind should."""
    for identity in policy.identities:
        most_s, rules = MAX_S[identity.kind], identity.token
        most = format_duration(most_s)
        # `ttl` is never over `max_ttl`, so shortening it means to shorten both.
        if rules.ttl_s > most_s:
            yield _finding(identity, "ttl", rules.ttl_s, "lives", f"ttl: {most}, max_ttl: {most}")
        elif rules.max_ttl_s > most_s:
            how = "can be made to live"
            yield _finding(identity, "max_ttl", rules.max_ttl_s, how, f"max_ttl: {most}")


def _finding(identity: Identity, field: str, seconds: int, how: str, instead: str) -> LintFinding:
    return finding_about(
        identity,
        LONG_LIVED_TOKEN,
        f"a token of the {identity.kind} identity {quote(identity.name)} {how} for"
        f" `{format_duration(seconds)}`",
        identity.token.spans.get(field),
        f"write `token: {{{instead}}}` or less; another one is quickly issued",
    )


NO_IDLE_TIMEOUT = "no-idle-timeout"


def no_idle_timeout(policy: Policy) -> Iterator[LintFinding]:
    """Find human identities whose tokens do not expire when they are not used."""
    for identity in policy.identities:
        if identity.kind is IdentityKind.HUMAN and identity.token.idle_s is None:
            yield finding_about(
                identity,
                NO_IDLE_TIMEOUT,
                f"a token of the human identity {quote(identity.name)} stays good while nobody"
                " uses it",
                identity.span,
                "add `token: {idle: 15m}`",
            )
