"""What limits have counted, as Redis holds it, for a decision that changes nothing there."""

from __future__ import annotations

import hashlib
import struct

from keyleash.decision.counts import (
    BudgetCount,
    Count,
    GcraCount,
    RingCount,
    corrupt_count,
    new_count,
)
from keyleash.decision.moving import way
from keyleash.decision.state import ModelState
from keyleash.errors import ReplyCode
from keyleash.policy import Budget, Identity, Limit, Rate, SubjectKind
from keyleash.policy.limits import MIN_EMISSION_US, RATE_PERIODS_US
from keyleash.policy.model import MAX_RING_SLOTS, PERIOD_US
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.state import (
    DOUBLE,
    MOST,
    Layout,
    LimitState,
    is_count,
    is_time,
    ordered_calls,
    unpack_state,
    whole_us,
)

_HEADER = struct.Struct("<ddd")


def stored_state(
    identity: Identity, packed: bytes | None, layout: Layout | None, reason: str = ""
) -> ModelState:
    """
    What limits of the identity itself have counted, and whether it may act at all.

    Args:
        identity: From the active policy.
        packed: Its state, or None if there is none.
        layout: Of that state.
        reason: What the record of its suspension says, if there is one.
    """
    found = ModelState()
    try:
        state = unpack_state(packed, layout) if packed and layout is not None else None
    except struct.error:
        # Shorter than its layout: somebody wrote to it. The guard fails on it as well.
        state = None
    if state is None:
        found.refuses = ReplyCode.NOT_ACTIVE
        return found
    found.suspended, found.reason = state.suspended, reason
    held = {one.slot.name: one for one in state.limits}
    for limit in identity.limits:
        if limit.name in held:
            found.counts[limit.name, b""] = count_of(limit, held[limit.name])
    return found


def subject_key(keyspace: Keyspace, identity: Identity, limit: Limit, subject: bytes) -> str:
    """The record of one subject: a token goes by its id, a segment, which may be long, by SHA-1."""
    is_token = limit.subject.kind is SubjectKind.TOKEN
    digest = hashlib.sha1(subject, usedforsecurity=False).hexdigest()
    prefix = keyspace.limit_prefix(identity.name, limit.name)
    return prefix + (subject.decode() if is_token else digest)


def count_of(limit: Limit, held: LimitState) -> Count:
    """What the identity's state holds of a limit of its own."""
    if held.is_corrupt:
        return corrupt_count(limit)
    count = new_count(limit)
    match count:
        case RingCount():
            count.calls_us.extend(held.calls_us)
        case GcraCount():
            count.tat_us = held.tat_us
        case BudgetCount():
            count.ends_us, count.used = held.ends_us, held.used
    return count


def count_of_subject(limit: Limit, record: bytes, now_us: int) -> Count:
    """
    What the record of a token or of a captured segment holds.

    The record says itself how it was counted; a limit that a reload gave another way since
    is for `ModelState.count` to move, as a guard does when it next sees the subject. What no
    guard can have left is a corrupt counter.
    """
    count = _count_of_record(limit, record) or corrupt_count(limit)
    # It is there, so it has not expired.
    count.expires_ms = now_us // 1000
    return count


def _count_of_record(limit: Limit, record: bytes) -> Count | None:
    if len(record) < _HEADER.size:
        return None
    first, second, third = _HEADER.unpack_from(record)
    if isinstance(limit, Budget):
        return _budget_count(limit, first, second, third)
    if (second, third) != way(limit) and not _is_known(first, second, third, len(record)):
        return None
    if second == 0:
        # A rate of one call in each interval; only its interval matters.
        gcra = GcraCount(Rate(limit.counter, 1, int(third), 1, limit.subject))
        gcra.tat_us = whole_us(first)
        return gcra if is_time(first) else None
    ring = RingCount(Rate(limit.counter, int(second), int(third), None, limit.subject))
    calls_us = ordered_calls(first, record[_HEADER.size :], int(second))
    if calls_us is None:
        return None
    ring.calls_us.extend(calls_us)
    return ring


def _is_known(first: float, capacity: float, pace_us: float, size: int) -> bool:
    """Whether the guard of some policy can have left a rate like that."""
    if not (0 <= first < MOST and first.is_integer()):
        return False
    if capacity == 0:
        is_interval = MIN_EMISSION_US <= pace_us <= max(RATE_PERIODS_US.values())
        return is_interval and pace_us.is_integer() and size == _HEADER.size
    is_ring = first < capacity <= MAX_RING_SLOTS and capacity.is_integer()
    # A ring grows slot by slot until it goes round.
    sizes = {_HEADER.size + DOUBLE * int(slots) for slots in (first, capacity)} if is_ring else ()
    return pace_us in RATE_PERIODS_US.values() and size in sizes


def _budget_count(
    limit: Budget, ends_us: float, used: float, period_us: float
) -> BudgetCount | None:
    periods = {length: period for period, length in PERIOD_US.items()}
    if period_us not in periods or not (is_time(ends_us) and is_count(used)):
        return None
    period = periods[int(period_us)]
    count = BudgetCount(Budget(limit.counter, limit.limit, period, limit.timezone, limit.subject))
    count.ends_us, count.used = whole_us(ends_us), int(used)
    return count
