"""
Whether one limit lets through what another does not, for each kind of limit by itself.

A rate is told by the most calls that it lets through in a closed stretch of time: a ring of
`limit` in `period`, `limit` for each period begun; a GCRA, `burst` and one for each interval. One
rate has nothing beyond another if it has no more in a stretch of any length.
"""

from __future__ import annotations

from keyleash.policy.model import Rate


def lets_more(one: Rate, other: Rate) -> bool:
    """Whether *one* lets some sequence of calls through that *other* stops."""
    return not _is_within(one, other)


def _is_within(one: Rate, other: Rate) -> bool:
    if other.burst is None:
        # A ring looks at stretches of its period, and their ends are not both in one.
        return _most_within(one, other.period_us - 1) <= other.limit
    burst = one.limit if one.burst is None else one.burst
    return burst <= other.burst and _is_slower(one, other)


def _is_slower(one: Rate, other: Rate) -> bool:
    """In the long run, against a GCRA."""
    interval_us = _interval_us(other)
    if one.burst is None:
        return one.limit * interval_us <= one.period_us
    return _interval_us(one) >= interval_us


def _most_within(rate: Rate, length_us: int) -> int:
    """The most calls in a closed stretch of *length_us*."""
    if rate.burst is None:
        return rate.limit * (length_us // rate.period_us + 1)
    return rate.burst + length_us // _interval_us(rate)


def _interval_us(rate: Rate) -> int:
    """As guards have it: rounded up, so that the rate is never exceeded."""
    return -(-rate.period_us // rate.limit)
