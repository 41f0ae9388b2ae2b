"""Whether an identity is suspended, and what its calls are answered then."""

from __future__ import annotations

from keyleash.decision.state import ModelState
from keyleash.decision.verdict import Decision, refused
from keyleash.errors import ReplyCode
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
