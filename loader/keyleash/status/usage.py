"""How much of its window each limit of an identity has used."""

from __future__ import annotations

from dataclasses import dataclass

from keyleash.policy import Budget, Identity, Limit, Rate, SubjectKind
from keyleash.protocol.state import LimitState, SlotKind, State

PERIOD_NAMES = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}
SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One limit, as people look at it.

    Attributes:
        name: As refusals name it.
        kind: How it counts.
        allows: The limit in words: `600 a minute, at most 60 at once`.
        used: Calls counted in the window that is open, or None for a limit that counts
            each token or captured segment apart. With a burst, what is not yet free again.
        of: What `used` may reach.
        resets_ms: When the window ends, for a budget that has counted something.
        per: Who shares the counter.
    """

    name: str
    kind: SlotKind
    allows: str
    used: int | None
    of: int
    resets_ms: int | None
    per: str

    @property
    def share(self) -> float | None:
        """How much of it is used, from 0 to 1; None where that is not one number."""
        return None if self.used is None else min(1.0, self.used / self.of)


def limit_uses(identity: Identity, state: State | None, now_us: int) -> list[LimitUse]:
    """
    The limits of *identity*, in the order in which its guard checks them.

    Args:
        identity: From the active policy.
        state: Its state, or None if it has none.
        now_us: Server time.
    """
    held = {} if state is None else {one.slot.name: one for one in state.limits}
    return [_use(limit, held.get(limit.name), now_us) for limit in identity.limits]


def _use(limit: Limit, held: LimitState | None, now_us: int) -> LimitUse:
    shared = limit.subject.kind is SubjectKind.IDENTITY
    used, resets_ms = (_used(held, now_us) if held else (0, None)) if shared else (None, None)
    if held is not None and held.is_corrupt:
        # It denies every call that counts towards it.
        used, resets_ms = most(limit), None
    return LimitUse(
        name=limit.name,
        kind=_kind(limit),
        allows=allows(limit),
        used=used,
        of=most(limit),
        resets_ms=resets_ms,
        per=f"{{{limit.subject.capture}}}" if limit.subject.capture else str(limit.subject.kind),
    )


def _used(held: LimitState, now_us: int) -> tuple[int, int | None]:
    slot = held.slot
    match slot.kind:
        case SlotKind.BUDGET if now_us >= held.ends_us:
            return 0, None
        case SlotKind.BUDGET:
            return held.used, held.ends_us // 1000
        case SlotKind.RING:
            return sum(at_us > now_us - slot.period_us for at_us in held.calls_us), None
        case SlotKind.GCRA:
            return -(-max(0, held.tat_us - now_us) // slot.interval_us), None


def _kind(limit: Limit) -> SlotKind:
    match limit:
        case Budget():
            return SlotKind.BUDGET
        case Rate(burst=None):
            return SlotKind.RING
        case Rate():
            return SlotKind.GCRA


def most(limit: Limit) -> int:
    """How many calls a limit lets through at once, when none was counted."""
    return limit.burst if isinstance(limit, Rate) and limit.burst is not None else limit.limit


def allows(limit: Limit) -> str:
    """The limit in words: `600 a minute, 60 at once`."""
    if isinstance(limit, Budget):
        zone = "" if limit.timezone == "UTC" else f", {limit.timezone}"
        return f"{limit.limit} {_a(limit.period)}{zone}"
    seconds = limit.period_us // SECOND_US
    period = PERIOD_NAMES.get(seconds, f"{seconds} s")
    burst = f", {limit.burst} at once" if limit.burst is not None else ""
    return f"{limit.limit} {_a(period)}{burst}"


def _a(period: str) -> str:
    return f"an {period}" if period == "hour" else f"a {period}"
