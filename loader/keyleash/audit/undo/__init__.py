"""Undoing what trails tell: a plan of the way back, and going it at once or not at all."""

from keyleash.audit.undo.apply import Undone, apply_undo, refusal
from keyleash.audit.undo.history import Trust, UndoStep, described
from keyleash.audit.undo.plan import Action, ConflictKind, KeyPlan, Obstacle, UndoPlan, plan_undo
from keyleash.audit.undo.selection import UndoSelection
from keyleash.audit.undo.values import Value

__all__ = [
    "Action",
    "ConflictKind",
    "KeyPlan",
    "Obstacle",
    "Trust",
    "UndoPlan",
    "UndoSelection",
    "UndoStep",
    "Undone",
    "Value",
    "apply_undo",
    "described",
    "plan_undo",
    "refusal",
]
