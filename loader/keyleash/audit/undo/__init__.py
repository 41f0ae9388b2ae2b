"""Undoing what trails tell: a plan of the way back, and going it at once or not at all."""

from keyleash.audit.undo.apply import Undone, apply_undo, refusal
from keyleash.audit.undo.plan import Action, KeyPlan, Kind, Obstacle, UndoPlan
from keyleash.audit.undo.planner import plan_undo
from keyleash.audit.undo.selection import Selection
from keyleash.audit.undo.steps import Step
from keyleash.audit.undo.trust import Trust, described
from keyleash.audit.undo.values import Value

__all__ = [
    "Action",
    "KeyPlan",
    "Kind",
    "Obstacle",
    "Selection",
    "Step",
    "Trust",
    "UndoPlan",
    "Undone",
    "Value",
    "apply_undo",
    "described",
    "plan_undo",
    "refusal",
]
