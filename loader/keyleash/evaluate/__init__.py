"""The reference evaluator: what a guard decides, written from the design and not from the Lua.

One order, always: command and class → declared keys → deny and grants per key → limits.
All limits are looked at before any is taken, so a denied call changes nothing. Nothing
here knows the compiler, so that guards can be compared with it.

    state = ModelState()
    decision = decide(identity, table, [b"GET", b"a:1"], [b"a:1"], state, now_us)
    assert decision.allowed
"""

from keyleash.evaluate.evaluate import decide
from keyleash.evaluate.state import ModelState
from keyleash.evaluate.trace import ALLOWED, Decision

__all__ = [
    "ALLOWED",
    "Decision",
    "ModelState",
    "decide",
]
