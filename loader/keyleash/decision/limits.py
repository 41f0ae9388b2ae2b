"""The limits of a call: all of them let it through, or none counts it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keyleash.commands import OperationClass
from keyleash.decision.matching import captured
from keyleash.decision.state import ModelState
from keyleash.decision.trace import LimitStep, Trace
from keyleash.decision.verdict import ALLOWED, Decision, refused
from keyleash.errors import ReplyCode
from keyleash.policy import Budget, Counter, Identity, Limit, SubjectKind


def take_limits(
    identity: Identity,
    needs: Sequence[OperationClass],
    keys: Sequence[bytes],
    state: ModelState,
    now_us: int,
    token_id: str,
    trace: Trace,
) -> Decision:
    """Look at one limit after the other, then take all or none."""
    looked_at = []
    for limit in identity.limits:
        if not counts_towards(limit.counter, needs):
            continue
        for subject in subjects(identity, limit, keys, token_id):
            count = state.count(limit, subject, now_us)
            free_us = count.free_us(now_us)
            over = ALLOWED
            if count.is_corrupt:
                over = refused(ReplyCode.COUNTER_CORRUPT, limit=limit.name)
            elif free_us > now_us:
                over = over_the_limit(limit, free_us, now_us)
            left, resets_us = count.left(now_us), count.resets_us(now_us)
            trace.append(LimitStep(limit, subject, left, free_us, resets_us, code=over.code))
            if not over.allowed:
                return over
            looked_at.append(count)
    for count in looked_at:
        count.take(now_us)
    return ALLOWED


def over_the_limit(limit: Limit, free_us: int, now_us: int) -> Decision:
    """Times are given in whole milliseconds, rounded up."""
    if isinstance(limit, Budget):
        resets_at_ms = -(-free_us // 1000)
        return refused(ReplyCode.BUDGET_EXHAUSTED, limit=limit.name, resets_at_ms=resets_at_ms)
    retry_after_ms = -(-(free_us - now_us) // 1000)
    return refused(ReplyCode.RATE_LIMITED, limit=limit.name, retry_after_ms=retry_after_ms)


def counts_towards(counter: Counter, needs: Sequence[OperationClass]) -> bool:
    classes = {
        Counter.READS: OperationClass.READ,
        Counter.WRITES: OperationClass.WRITE,
        Counter.DELETES: OperationClass.DELETE,
    }
    return counter is Counter.REQUESTS or classes[counter] in needs


def subjects(
    identity: Identity, limit: Limit, keys: Sequence[bytes], token_id: str
) -> Iterator[bytes]:
    """Whose counters a call moves, each once."""
    match limit.subject.kind:
        case SubjectKind.IDENTITY:
            yield b""
        case SubjectKind.TOKEN:
            yield token_id.encode()
        case SubjectKind.CAPTURE:
            name = limit.subject.capture
            assert name is not None  # noqa: S101 - a subject of that kind has one
            segments = (segment(identity, name, key) for key in keys)
            yield from dict.fromkeys(one for one in segments if one is not None)


def segment(identity: Identity, name: str, key: bytes) -> bytes | None:
    """What the first granted pattern that has the capture and matches the key captures."""
    for grant in identity.grants:
        for pattern in grant.keys:
            found = captured(pattern, key) if name in pattern.captures else None
            if found is not None:
                return found[name]
    return None
