"""Undoing what trails tell: a plan of the way back, and going it at once or not at all."""

from keyleash.audit.undo.apply import UndoResult, apply_undo, refusal
from keyleash.audit.undo.history import Trust, UndoStep, described
from keyleash.audit.undo.plan import Action, Conflict, ConflictKind, KeyPlan, UndoPlan, plan_undo
from keyleash.audit.undo.selection import UndoSelection
from keyleash.audit.undo.values import Value

__all__ = [
    "Action",
    "Conflict",
    "ConflictKind",
    "KeyPlan",
    "Trust",
    "UndoPlan",
    "UndoResult",
    "UndoSelection",
    "UndoStep",
    "Value",
    "apply_undo",
    "described",
    "plan_undo",
    "refusal",
]
