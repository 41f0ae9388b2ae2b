"""The state of an identity, as stored and as a reload migrates it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from keyleash.commands import CommandSpec
from keyleash.errors import ReplyCode
from keyleash.limits import BudgetCount, Count, GcraCount, LimitState, RingCount
from keyleash.limits.calendar import PERIOD_US
from keyleash.limits.counters import DOUBLE, MOST, is_count, is_time, whole_us
from keyleash.limits.rate import MAX_EMISSION_US, MAX_RING_SLOTS, MIN_EMISSION_US, ordered_calls
from keyleash.policy import Budget, Identity, Limit, Rate, SubjectKind
from keyleash.store.keyspace import Keyspace
from keyleash.store.state import Layout, unpack_state


def moved_count(old: Count, limit: Limit, now_us: int) -> Count:
    """Return what a limit of the same name has counted after a reload.

    A limit of another kind starts as if it were used up.
    """
    new = limit.new_count()
    new.expires_ms = old.expires_ms
    match old, new:
        case BudgetCount(), BudgetCount():
            new.carry(old, now_us)
        case RingCount(), RingCount():
            new.carry(old, now_us)
        case GcraCount(), GcraCount():
            new.carry(old, now_us)
        case _, RingCount() | GcraCount():
            new.exhaust(now_us)
    return new


def continued_count(old: Count, limit: Limit) -> Count:
    """The same numbers under a limit that differs in what it allows, not in how it counts."""
    new = limit.new_count()
    for name in vars(old).keys() & {"calls_us", "tat_us", "ends_us", "count", "expires_ms"}:
        setattr(new, name, getattr(old, name))
    return new


def way(limit: Limit) -> tuple[object, ...]:
    """Return the values of a limit that decide how its record is read."""
    match limit:
        case Budget():
            return (limit.period,)
        case Rate(burst=None):
            return limit.limit, limit.period_us
        case Rate():
            return 0, limit.interval_us


class Sizes(Protocol):
    """A server that returns the sizes of keys, by the names that the agent uses."""

    def length(self, key: bytes) -> int:
        """Return the length of a string in bytes; 0 for a key of another type."""

    def work(
        self, spec: CommandSpec, argv: Sequence[bytes], keys: Sequence[bytes], left: float
    ) -> float:
        """Return the units of work of a call; more than *left* if the server cannot tell."""


@dataclass(slots=True)
class ModelState:
    """
    What was counted, by limit and subject.

    A reload moves what the identity itself has counted. Counters of a token or a
    segment are moved when they are next seen, if they have not expired by then.

    Attributes:
        refuses: The code that denies every call, if the identity has no state.
        suspended: 0; 1 until an operator resumes the identity; or the end of the suspension, µs.
        reason: The reason of the suspension, as denials repeat it.
        refused_us: The times of the newest denials that count towards its circuit breaker.
        sizes: The server whose keys a call is about; None if there is none to ask.
        is_full: Whether the audit stream has no room because events wait for their export.
    """

    counts: dict[tuple[str, bytes], Count] = field(default_factory=dict)
    refuses: ReplyCode | None = None
    suspended: int = 0
    reason: str = ""
    refused_us: list[int] = field(default_factory=list)
    is_full: bool = False
    sizes: Sizes | None = None

    def count(self, limit: Limit, subject: bytes, now_us: int) -> Count:
        found = self.counts.get((limit.name, subject))
        if found is None or (subject and found.expires_ms < now_us // 1000):
            found = limit.new_count()
        elif way(found.limit) != way(limit):
            found = moved_count(found, limit, now_us)
        elif found.limit != limit:
            found = continued_count(found, limit)
        self.counts[limit.name, subject] = found
        return found

    def reload(self, before: Identity, identity: Identity, now_us: int) -> None:
        """Migrate what was counted to a policy in which *before* has become *identity*."""
        for limit in before.limits:
            if limit.subject.kind is SubjectKind.IDENTITY:
                self.count(limit, b"", now_us)
        shared = {
            limit.name: limit
            for limit in identity.limits
            if limit.subject.kind is SubjectKind.IDENTITY
        }
        for name, subject in [*self.counts]:
            if not subject and name in shared:
                old = self.counts[name, subject]
                self.counts[name, subject] = moved_count(old, shared[name], now_us)
            elif not subject:
                del self.counts[name, subject]


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
        reason: From the record of its suspension, if there is one.
    """
    found = ModelState()
    try:
        state = unpack_state(packed, layout) if packed and layout is not None else None
    except struct.error:
        # Shorter than its layout: an agent wrote to it. The guard denies every call as well.
        state = None
    if state is None:
        found.refuses = ReplyCode.NOT_ACTIVE
        return found
    found.suspended, found.reason = state.suspended, reason
    held = {item.slot.name: item for item in state.limits}
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
    """Return the counter of a limit that the identity's state holds."""
    if held.is_corrupt:
        return _corrupt_count(limit)
    count = limit.new_count()
    count.restore(held)
    return count


def _corrupt_count(limit: Limit) -> Count:
    count = limit.new_count()
    count.corrupt()
    return count


def count_of_subject(limit: Limit, record: bytes, now_us: int) -> Count:
    """
    What the record of a token or of a captured segment holds.

    The record says itself how it was counted; a limit that a reload gave another way since
    is for `ModelState.count` to move, as a guard does when it next sees the subject. What no
    guard can have left is a corrupt counter.
    """
    count = _count_of_record(limit, record, now_us) or _corrupt_count(limit)
    # It is there, so it has not expired.
    count.expires_ms = now_us // 1000
    return count


def _count_of_record(limit: Limit, record: bytes, now_us: int) -> Count | None:
    if len(record) < _HEADER.size:
        return None
    first, second, third = _HEADER.unpack_from(record)
    if isinstance(limit, Budget):
        return _budget_count(limit, first, second, third)
    count = limit.new_count()
    if second == 0 if isinstance(count, RingCount) else second > 0:
        # It counted in the other way.
        count.exhaust(now_us)
        return count
    if (second, third) != way(limit) and not _is_known(first, second, third, len(record)):
        return None
    if isinstance(count, GcraCount):
        if not is_time(first):
            return None
        if third != limit.interval_us:
            # A rate of one call in each interval; only its interval matters.
            count = GcraCount(Rate(limit.counter, 1, int(third), 1, limit.subject))
        count.tat_us = whole_us(first)
        return count
    calls_us = ordered_calls(first, record[_HEADER.size :], int(second))
    if calls_us is None:
        return None
    ring = RingCount(Rate(limit.counter, int(second), limit.period_us, None, limit.subject))
    ring.calls_us.extend(calls_us)
    return ring


def _is_known(first: float, capacity: float, pace_us: float, size: int) -> bool:
    """Return whether the guard of some policy can have left a rate like that."""
    if not (0 <= first < MOST and first.is_integer()):
        return False
    if capacity == 0:
        is_interval = MIN_EMISSION_US <= pace_us <= MAX_EMISSION_US
        return is_interval and pace_us.is_integer()
    is_ring = first < capacity <= MAX_RING_SLOTS and capacity.is_integer()
    # A ring grows slot by slot until it goes round.
    return is_ring and size in {_HEADER.size + DOUBLE * int(slots) for slots in (first, capacity)}


def _budget_count(
    limit: Budget, ends_us: float, used: float, period_us: float
) -> BudgetCount | None:
    periods = {length: period for period, length in PERIOD_US.items()}
    if period_us not in periods or not (is_time(ends_us) and is_count(used)):
        return None
    period = periods[int(period_us)]
    count = BudgetCount(Budget(limit.counter, limit.limit, period, limit.timezone, limit.subject))
    count.ends_us, count.count = whole_us(ends_us), int(used)
    return count
