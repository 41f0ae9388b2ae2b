"""Rates and budgets, one module per kind: its values, layout, counting and comparison.

A kind of limit is a class like `Rate` or `Budget`, which reads the values of a policy, and for
each way of counting a class in `COUNTS`. The compiler, the reference evaluator, reload and
status read their facts from here.
"""

from keyleash.limits.budget import Budget, BudgetCount
from keyleash.limits.calendar import Period
from keyleash.limits.counters import (
    SECOND_US,
    BaseCount,
    BaseLimit,
    Counter,
    LimitState,
    Slot,
    SlotKind,
    Subject,
    SubjectKind,
)
from keyleash.limits.rate import GcraCount, Rate, RingCount

Limit = Rate | Budget

COUNTS: dict[SlotKind, type[BaseCount]] = {
    SlotKind.GCRA: GcraCount,
    SlotKind.BUDGET: BudgetCount,
    SlotKind.RING: RingCount,
}

__all__ = [
    "COUNTS",
    "SECOND_US",
    "BaseCount",
    "BaseLimit",
    "Budget",
    "BudgetCount",
    "Counter",
    "GcraCount",
    "Limit",
    "LimitState",
    "Period",
    "Rate",
    "RingCount",
    "Slot",
    "SlotKind",
    "Subject",
    "SubjectKind",
]
