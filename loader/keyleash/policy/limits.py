"""Rates and budgets of an identity."""

from __future__ import annotations

import re
from functools import cache
from zoneinfo import available_timezones

from keyleash.policy.model import (
    MAX_RING_SLOTS,
    SECOND_US,
    Budget,
    Counter,
    Period,
    Rate,
    Subject,
    SubjectKind,
)
from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.quantities import parse_count_per_period
from keyleash.policy.yaml import YamlNode

RATE_PERIODS_US = {
    "second": SECOND_US,
    "minute": 60 * SECOND_US,
    "hour": 3600 * SECOND_US,
    "day": 86_400 * SECOND_US,
}
MIN_EMISSION_US = 10
MAX_BURST = 1_000_000
MAX_BURST_US = 366 * RATE_PERIODS_US["day"]
"""A TAT lies this far ahead at most, so that a double still holds it to the microsecond."""
MAX_BUDGET = 10**15
"""Counters are doubles too, exact to 2^53."""

UTC = "UTC"

Captures = frozenset[str] | None
"""Names that the identity's granted patterns capture; None if not all could be read."""


def read_rates(node: YamlNode | None, captures: Captures, problems: Problems) -> tuple[Rate, ...]:
    """The rates under *node* without those that have problems, in the order of `Counter`."""
    if node is None:
        return ()
    found = (
        _read_rate(counter, entry, captures, problems)
        for counter in Counter
        if (entry := node.get(counter)) is not None
    )
    return tuple(rate for rate in found if rate is not None)


def read_budgets(
    node: YamlNode | None, captures: Captures, problems: Problems
) -> tuple[Budget, ...]:
    """The budgets under *node* without those that have problems, in the order of `Counter`."""
    if node is None:
        return ()
    found = (
        _read_budget(counter, entry, captures, problems)
        for counter in Counter
        if (entry := node.get(counter)) is not None
    )
    return tuple(budget for budget in found if budget is not None)


def _limit_node(entry: YamlNode) -> YamlNode | None:
    return entry.get("limit") if isinstance(entry.value, dict) else entry


def _read_rate(
    counter: Counter, entry: YamlNode, captures: Captures, problems: Problems
) -> Rate | None:
    subject = _read_subject(entry.get("per"), captures, problems)
    node = _limit_node(entry)
    if node is None:
        return None
    quantity = problems.attempt(
        lambda: parse_count_per_period(node.source, RATE_PERIODS_US.keys(), node.span)
    )
    if quantity is None:
        return None
    limit, period_us = quantity[0], RATE_PERIODS_US[quantity[1]]
    burst_node = entry.get("burst")
    if burst_node is None:
        _check_plain_rate(limit, node, problems)
        return Rate(counter, limit, period_us, None, subject, entry.label)
    burst = int(burst_node.source)
    _check_burst(limit, period_us, burst_node, problems)
    if limit * MIN_EMISSION_US > period_us:
        problems.add(
            "limit-out-of-range",
            f"the rate {quote(node.source)} is over 100000 a second",
            node.span,
            "write a lower limit, or a longer period",
        )
    return Rate(counter, limit, period_us, burst, subject, entry.label)


def _check_plain_rate(limit: int, node: YamlNode, problems: Problems) -> None:
    if limit > MAX_RING_SLOTS:
        problems.add(
            "limit-out-of-range",
            f"the limit {quote(str(limit))} is over {MAX_RING_SLOTS}, the most that a rate"
            " without `burst` can remember",
            node.span,
            f"add a `burst`, as in `{{limit: {node.source}, burst: 1000}}`,"
            " or use a shorter period",
        )


def _check_burst(limit: int, period_us: int, node: YamlNode, problems: Problems) -> None:
    burst = int(node.source)
    if not 1 <= burst <= MAX_BURST:
        problems.add(
            "burst-out-of-range",
            f"the burst {quote(node.source)} is not between 1 and {MAX_BURST}",
            node.span,
            "write how many calls may come back to back, such as `burst: 60`",
        )
    elif burst * period_us > MAX_BURST_US * limit:
        problems.add(
            "burst-out-of-range",
            f"the burst {quote(node.source)} takes longer than 366 days to earn back",
            node.span,
            f"write `burst: {MAX_BURST_US * limit // period_us}` or less",
        )


def _read_budget(
    counter: Counter, entry: YamlNode, captures: Captures, problems: Problems
) -> Budget | None:
    subject = _read_subject(entry.get("per"), captures, problems)
    timezone = _read_timezone(entry.get("timezone"), problems)
    node = _limit_node(entry)
    if node is None:
        return None
    quantity = problems.attempt(lambda: parse_count_per_period(node.source, [*Period], node.span))
    if quantity is None:
        return None
    limit, period = quantity
    if limit > MAX_BUDGET:
        problems.add(
            "limit-out-of-range",
            f"the budget {quote(str(limit))} is over {MAX_BUDGET}",
            node.span,
            "leave the budget out if there is to be none",
        )
    return Budget(counter, limit, Period(period), timezone, subject, entry.label)


def _read_timezone(node: YamlNode | None, problems: Problems) -> str:
    if node is None:
        return UTC
    if node.source not in _timezones():
        problems.add(
            "unknown-timezone",
            f"unknown time zone {quote(node.source)}",
            node.span,
            did_you_mean(
                node.source, _timezones(), "write an IANA name, such as `Europe/Berlin` or `UTC`"
            ),
        )
    return node.source


@cache
def _timezones() -> frozenset[str]:
    # `localtime` is whatever the loading machine happens to be set to.
    return frozenset(available_timezones() - {"localtime", "Factory"})


def _read_subject(node: YamlNode | None, captures: Captures, problems: Problems) -> Subject:
    if node is None:
        return Subject()
    if node.source in (SubjectKind.IDENTITY, SubjectKind.TOKEN):
        return Subject(SubjectKind(node.source))
    name = re.fullmatch(r"\{([a-z_][a-z0-9_]*)\}", node.source)
    if name is None:
        problems.add(
            "unknown-subject",
            f"{quote(node.source)} is nobody to count for",
            node.span,
            _subject_help(node.source, captures or frozenset()),
        )
        return Subject()
    if captures is not None and name[1] not in captures:
        problems.add(
            "unknown-subject",
            f"no granted key pattern of this identity captures {quote(node.source)}",
            node.span,
            _subject_help(node.source, captures),
        )
    return Subject(SubjectKind.CAPTURE, name[1])


def _subject_help(written: str, captures: frozenset[str]) -> str:
    known = ["identity", "token", *(f"{{{name}}}" for name in sorted(captures))]
    return did_you_mean(written, known, f"write one of {listing(known)}")
