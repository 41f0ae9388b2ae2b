"""Undo recorded changes: plan the restoration of keys, and apply it atomically."""

from keyleash.audit.undo.apply import UndoResult, apply_undo, blocked_error
from keyleash.audit.undo.history import UndoStep
from keyleash.audit.undo.plan import (
    Action,
    Conflict,
    ConflictKind,
    KeyPlan,
    UndoPlan,
    plan_selected,
    plan_undo,
)
from keyleash.audit.undo.trust import Trust, untrusted_text
from keyleash.audit.undo.values import Value

__all__ = [
    "Action",
    "Conflict",
    "ConflictKind",
    "KeyPlan",
    "Trust",
    "UndoPlan",
    "UndoResult",
    "UndoStep",
    "Value",
    "apply_undo",
    "blocked_error",
    "plan_selected",
    "plan_undo",
    "untrusted_text",
]
