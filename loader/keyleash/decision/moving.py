"""What a limit has counted, as a reload hands it to another of the same name."""

from __future__ import annotations

import math
from collections import deque

from keyleash.decision.calendar import window_end_us
from keyleash.decision.counts import BudgetCount, Count, GcraCount, RingCount, new_count
from keyleash.policy import Budget, Limit, Rate
from keyleash.protocol.state import COUNTER_KEEP_MS


def moved_count(old: Count, limit: Limit, now_us: int, *, known: bool) -> Count:
    """
    What *old* has counted, as a reload hands it to a limit of the same name.

    *known*: whether the old limit's period and time zone are, as they are for those of
    the identity itself; a record of a token or a segment does not hold them.
    """
    new = new_count(limit)
    new.expires_ms = old.expires_ms
    match old, new:
        case BudgetCount(), BudgetCount():
            # The window that is open ends when the new calendar says so.
            if now_us < old.ends_us:
                new.used = old.used
                new.ends_us = window_end_us(new.limit.period, new.limit.timezone, now_us)
                calendars = {(one.limit.period, one.limit.timezone) for one in (old, new)}
                if known and len(calendars) == 1:
                    # A clock that went back must not open a window again.
                    new.ends_us = max(new.ends_us, old.ends_us)
                new.expires_ms = now_us // 1000 - (now_us - new.ends_us) // 1000 + COUNTER_KEEP_MS
        case RingCount(), RingCount():
            new.calls_us.extend(old.calls_us)
        case RingCount(), GcraCount():
            for at_us in filter(None, old.calls_us):
                new.take(at_us)
            new.expires_ms = old.expires_ms
        case GcraCount(), GcraCount():
            # So many calls are owed as were, at the new price.
            owed = max(old.tat_us - now_us, 0) / old.interval_us
            new.tat_us = min(old.tat_us, now_us) + math.ceil(owed * new.interval_us)
        case GcraCount(), RingCount():
            # The most that it may have let through: evenly, up to where it is free again.
            periods = (new.limit.period_us, old.limit.period_us if known else math.inf)
            since_us = now_us - min(periods)
            at_us, made = old.tat_us, deque[int]()
            while at_us > since_us and len(made) < new.limit.limit:
                at_us -= old.interval_us
                made.appendleft(min(at_us, now_us))
            new.calls_us.extend(made)
    match new:
        case RingCount():
            new.expires_ms = now_us // 1000 + new.limit.period_us // 1000 + COUNTER_KEEP_MS
        case GcraCount() if new.tat_us > now_us:
            new.expires_ms = now_us // 1000 - (now_us - new.tat_us) // 1000 + COUNTER_KEEP_MS
    return new


def continued_count(old: Count, limit: Limit) -> Count:
    """The same numbers under a limit that differs in what it allows, not in how it counts."""
    new = new_count(limit)
    for name in vars(old).keys() & {"calls_us", "tat_us", "ends_us", "used", "expires_ms"}:
        setattr(new, name, getattr(old, name))
    return new


def way(limit: Limit) -> tuple[object, ...]:
    """What makes one limit count unlike another of its name, its number or burst aside."""
    match limit:
        case Budget():
            return (limit.period,)
        case Rate(burst=None):
            return limit.limit, limit.period_us
        case Rate():
            return 0, -(-limit.period_us // limit.limit)
