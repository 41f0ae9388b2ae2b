"""Whether an identity is suspended, and what its calls are answered then."""

from __future__ import annotations

from keyleash.decision.state import ModelState
from keyleash.decision.verdict import Decision, refused
from keyleash.errors import ReplyCode
from keyleash.policy import Identity
from keyleash.policy.limits import RATE_PERIODS_US
from keyleash.policy.model import SECOND_US
from keyleash.protocol.state import UNTIL_RESUMED


def is_suspended(state: ModelState, now_us: int) -> bool:
    """Whether every call is refused; a suspension whose time is over is forgotten."""
    if UNTIL_RESUMED < state.suspended <= now_us:
        state.suspended = 0
    return state.suspended != 0


def suspended(state: ModelState) -> Decision:
    """The refusal, with its reason and its end if it has them."""
    details: dict[str, str | int] = {}
    # While prefixes are changed, which is below 0, no reason is looked for.
    if state.reason and state.suspended > 0:
        details["reason"] = state.reason
    if state.suspended > UNTIL_RESUMED:
        details["until_ms"] = -(-state.suspended // 1000)
    return refused(ReplyCode.SUSPENDED, **details)


def note_refusal(identity: Identity, state: ModelState, now_us: int) -> None:
    """Count a refusal towards the identity's circuit breaker, if it has one."""
    breaker = identity.on_denials
    if breaker is None:
        return
    state.refused_us.append(now_us)
    past = state.refused_us[: max(0, len(state.refused_us) - breaker.threshold + 1)]
    del state.refused_us[: len(past)]
    if past and now_us - past[-1] < RATE_PERIODS_US[breaker.period]:
        state.refused_us.clear()
        state.suspended = now_us + breaker.suspend_s * SECOND_US
        state.reason = breaker.reason
