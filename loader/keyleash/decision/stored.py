"""What limits have counted, as Redis holds it, for a decision that changes nothing there."""

from __future__ import annotations

import hashlib
import struct

from keyleash.decision.counts import BudgetCount, Count, GcraCount, RingCount, new_count
from keyleash.decision.state import ModelState
from keyleash.errors import ReplyCode
from keyleash.policy import Budget, Identity, Limit, Period, Rate, SubjectKind
from keyleash.policy.model import PERIOD_US
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.state import DOUBLE, Layout, LimitState, unpack_state

_HEADER = "<ddd"


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
    is for `ModelState.count` to move, as a guard does when it next sees the subject.

    Raises:
        struct.error: *record* is shorter than its header.
    """
    first, second, third = struct.unpack_from(_HEADER, record)
    count: Count
    if isinstance(limit, Budget):
        count = BudgetCount(_budget_of(limit, int(third)))
        count.ends_us, count.used = int(first), int(second)
    elif second == 0:
        count = GcraCount(Rate(limit.counter, 1, int(third), 1, limit.subject))
        count.tat_us = int(first)
    else:
        count = RingCount(Rate(limit.counter, int(second), int(third), None, limit.subject))
        ring = record[struct.calcsize(_HEADER) :]
        slots = struct.unpack(f"<{len(ring) // DOUBLE}d", ring)
        count.calls_us.extend(sorted(int(at) for at in slots if at))
    # It is there, so it has not expired.
    count.expires_ms = now_us // 1000
    return count


def _budget_of(limit: Budget, period_us: int) -> Budget:
    periods = {length: period for period, length in PERIOD_US.items()}
    period: Period = periods.get(period_us, limit.period)
    return Budget(limit.counter, limit.limit, period, limit.timezone, limit.subject)
