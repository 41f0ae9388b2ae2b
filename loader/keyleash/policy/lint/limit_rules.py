"""Lint rules about limits, token lifetimes and retention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keyleash.commands import OperationClass
from keyleash.commands.facts import SCANNED
from keyleash.limits import SECOND_US, Budget, Counter, Limit, Period, Rate, SubjectKind
from keyleash.limits.calendar import PERIOD_US
from keyleash.limits.counters import COUNTED
from keyleash.policy.lint.findings import Finding
from keyleash.policy.model import Delegation, Flush, Identity, IdentityKind
from keyleash.policy.problems import listing, quote
from keyleash.policy.quantities import format_duration

CHANGING = (OperationClass.WRITE, OperationClass.DELETE)


def no_budget(identity: Identity) -> Iterator[Finding]:
    """Find a class that counts towards no budget of the identity or of a token."""
    return _uncounted(
        identity, identity.budgets, "budget", "50000/day", "a slow loop ends within the day"
    )


def no_rate(identity: Identity) -> Iterator[Finding]:
    """Find a class that counts towards no rate of the identity or of a token."""
    return _uncounted(
        identity, identity.rates, "rate", "600/minute", "a loop is slowed down before it does harm"
    )


def _uncounted(
    identity: Identity, limits: Sequence[Limit], field: str, example: str, purpose: str
) -> Iterator[Finding]:
    def counts(limit: Limit, cls: OperationClass, *, per_segment: bool) -> bool:
        is_per_segment = limit.subject.kind is SubjectKind.CAPTURE
        return is_per_segment is per_segment and limit.counter.counts((cls,))

    # Callers choose segments, and each is another counter, also of calls that only read.
    uncounted = [
        cls
        for cls in (*CHANGING, OperationClass.READ)
        if any(cls in grant.allow for grant in identity.grants)
        and not any(counts(limit, cls, per_segment=False) for limit in limits)
        and (cls in CHANGING or any(counts(item, cls, per_segment=True) for item in limits))
    ]
    if uncounted:
        yield Finding(
            f"the machine identity {quote(identity.name)} may {listing(uncounted)}"
            f" without a {field} per identity or token",
            identity.span,
            f"add one, such as `{field}: {{{COUNTED[uncounted[0]]}: {example}}}`,"
            f" so that {purpose}",
        )


LONGEST_SHIFT_US = 3600 * SECOND_US
"""The time by which a change of a zone's clock extends a window."""


def unreachable_budget(identity: Identity) -> Iterator[Finding]:
    """Find budgets above what the identity's rates allow within a whole window."""
    for budget in identity.budgets:
        lower = [
            (most, rate)
            for rate in identity.rates
            if _counts_all_of(rate, budget) and (most := _most(rate, budget)) < budget.limit
        ]
        if lower:
            most, rate = min(lower, key=lambda item: item[0])
            unit = "bytes" if budget.counter.is_bytes else "calls"
            yield Finding(
                f"`{budget.name}` allows {budget.limit} {unit} per {budget.period}, and"
                f" `{rate.name}` allows at most {most} in that time",
                budget.span,
                "lower the budget to what the job needs, or leave it out",
            )


def _counts_all_of(rate: Rate, budget: Budget) -> bool:
    """Return whether a rate has one counter for all calls that one counter of the budget has."""
    # Calls do not bound bytes.
    of_calls = not budget.counter.is_bytes and rate.counter is Counter.REQUESTS
    if rate.counter is not budget.counter and not of_calls:
        return False
    return rate.subject.kind is SubjectKind.IDENTITY or rate.subject == budget.subject


def _most(rate: Rate, budget: Budget) -> int:
    """Return the most calls that the rate allows in the longest window of the budget."""
    window_us = PERIOD_US[budget.period]
    if budget.timezone != "UTC" and budget.period is not Period.MINUTE:
        window_us += LONGEST_SHIFT_US
    if rate.burst is None:
        return rate.limit * -(-window_us // rate.period_us)
    return rate.burst + rate.limit * window_us // rate.period_us


def unreachable_life(identity: Identity) -> Iterator[Finding]:
    """Find settings of renewal and delegation that allow a life which no token reaches."""
    rules, delegate = identity.token, identity.delegate
    if rules.renew and rules.ttl_s >= rules.max_ttl_s:
        yield Finding(
            f"tokens of {quote(identity.name)} may be renewed, and live for `max_ttl` already"
            " without it",
            rules.spans.get("renew"),
            "write a shorter `ttl` or a longer `max_ttl`, or leave out `renew`",
        )
    is_default = delegate.max_ttl_s == Delegation().max_ttl_s
    if delegate.depth and not is_default and delegate.max_ttl_s > rules.max_ttl_s:
        yield Finding(
            f"`delegate.max_ttl` of {quote(identity.name)} is longer than"
            f" `{format_duration(rules.max_ttl_s)}`, the longest life of a token, and no child"
            " outlives its parent",
            identity.span,
            f"write `delegate: {{max_ttl: {format_duration(rules.max_ttl_s)}}}` or less",
        )


ASSUMED_PER_DAY = 10_000
"""The number of calls a day that is assumed where no budget bounds it."""


def short_retention(identity: Identity) -> Iterator[Finding]:
    """Find identities that may delete and whose events expire too early."""
    grant = next((item for item in identity.grants if OperationClass.DELETE in item.allow), None)
    if grant is None:
        return
    rules, life = identity.audit, format_duration(identity.token.max_ttl_s)
    if rules.retain_s is not None and rules.retain_s < identity.token.max_ttl_s:
        yield Finding(
            f"{quote(identity.name)} may delete, and its events expire after"
            f" `{format_duration(rules.retain_s)}`, while a token may live for `{life}`",
            grant.span,
            f"write `audit: {{retain: {life}}}` or more",
        )
    elif rules.retain is not None and rules.retain < (day := _entries_per_day(identity)):
        yield Finding(
            f"{quote(identity.name)} may delete, and its audit stream retains {rules.retain}"
            f" entries, while a day may add {day}",
            grant.span,
            f"write `audit: {{retain: {day}}}` or more, or a lower budget",
        )


def _entries_per_day(identity: Identity) -> int:
    """Return the most entries that the budgets allow in the audit stream within one day."""
    granted = {cls for grant in identity.grants for cls in grant.allow}
    recorded = (*CHANGING, *([OperationClass.READ] if identity.audit.reads else []))
    by_class = [_least(identity, COUNTED[cls]) for cls in recorded if cls in granted]
    bounds = [
        _least(identity, Counter.REQUESTS),
        None if None in by_class else sum(item for item in by_class if item is not None),
    ]
    calls = min((bound for bound in bounds if bound is not None), default=ASSUMED_PER_DAY)
    # An event with before-images is followed by another one, with what the call left.
    return calls * (2 if _records_images(identity) else 1)


def _least(identity: Identity, counter: Counter) -> int | None:
    """Return the fewest calls a day that a budget allows; one per token bounds nothing."""
    allowed = (
        budget.limit * max(1, PERIOD_US[Period.DAY] // PERIOD_US[budget.period])
        for budget in identity.budgets
        if budget.counter is counter and budget.subject.kind is SubjectKind.IDENTITY
    )
    return min(allowed, default=None)


def _records_images(identity: Identity) -> bool:
    own = (grant.image_bytes for grant in identity.grants)
    return any(identity.audit.image_bytes if size is None else size for size in own)


MAX_S = {IdentityKind.MACHINE: 7 * 86_400, IdentityKind.HUMAN: 8 * 3600}
"""A week between deploys; a working day."""


def long_lived_token(identity: Identity) -> Iterator[Finding]:
    """Find a lifetime of tokens, or an upper bound of it, above that of the identity's kind."""
    most_s, rules = MAX_S[identity.kind], identity.token
    most = format_duration(most_s)
    # `ttl` is never over `max_ttl`, so to shorten it is to shorten both.
    for field, seconds, verb, instead in (
        ("ttl", rules.ttl_s, "lives", f"ttl: {most}, max_ttl: {most}"),
        ("max_ttl", rules.max_ttl_s, "may live", f"max_ttl: {most}"),
    ):
        if seconds > most_s:
            yield Finding(
                f"a token of the {identity.kind} identity {quote(identity.name)} {verb} for"
                f" `{format_duration(seconds)}`",
                rules.spans.get(field),
                f"write `token: {{{instead}}}` or less; another one is quickly issued",
            )
            return


def no_idle_timeout(identity: Identity) -> Iterator[Finding]:
    """Find tokens of people that do not expire when they are unused."""
    if identity.token.idle_s is None:
        message = f"a token of the human identity {quote(identity.name)} stays valid while unused"
        yield Finding(message, identity.span, "add `token: {idle: 15m}`")


def idle_flush(identity: Identity) -> Iterator[Finding]:
    """Find `flush: own` of tokens whose FLUSHDB is denied nevertheless."""
    rules, needed = identity.token, SCANNED["FLUSHDB"]
    if not rules.publish_grants:
        why, help = "agents cannot read what they may do", "remove `publish_grants: false`"
    elif not any(needed <= {*grant.allow} and grant.keys for grant in identity.grants):
        why = "no grant of keys allows both `scan` and `delete`"
        help = "write both in one grant of the keys that FLUSHDB may delete"
    else:
        return
    if rules.flush is Flush.OWN:
        message = f"`flush: own` has no effect, FLUSHDB stays denied: {why}"
        yield Finding(message, rules.spans.get("flush"), f"{help}, or remove `flush`")
