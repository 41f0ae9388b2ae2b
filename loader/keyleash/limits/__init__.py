"""Rates and budgets, one module per kind: its values, layout, counting and comparison.

A kind of limit is a class like `Rate` or `Budget`, which reads the values of a policy, and for
each way of counting a class in `COUNTS`. The compiler, the reference evaluator, reload and
status read their facts from here.
"""

import json
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

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
KINDS: tuple[type[Limit], ...] = (Rate, Budget)

COUNTS: dict[SlotKind, type[BaseCount]] = {
    SlotKind.GCRA: GcraCount,
    SlotKind.BUDGET: BudgetCount,
    SlotKind.RING: RingCount,
}


@lru_cache(64)
def pack_limits(limits: tuple[Limit, ...]) -> str:
    """Return limits as JSON, for the guard record; empty if there are none."""
    packed = [{"field": limit.FIELD, **asdict(replace(limit, span=None))} for limit in limits]
    return json.dumps(packed, separators=(",", ":")) if packed else ""


def unpack_limits(text: str) -> tuple[Limit, ...]:
    """Read limits that `pack_limits` wrote."""
    return tuple(map(_unpacked, json.loads(text or "[]")))


def _unpacked(values: dict[str, Any]) -> Limit:
    field, subject = values.pop("field"), values.pop("subject")
    values["counter"] = Counter(values["counter"])
    values["subject"] = Subject(SubjectKind(subject["kind"]), subject["capture"])
    if "period" in values:
        values["period"] = Period(values["period"])
    kind = next(kind for kind in KINDS if field == kind.FIELD)
    return kind(**values)


__all__ = [
    "COUNTS",
    "SECOND_US",
    "BaseCount",
    "BaseLimit",
    "Budget",
    "Counter",
    "Limit",
    "LimitState",
    "Period",
    "Rate",
    "Slot",
    "SlotKind",
    "Subject",
    "SubjectKind",
    "pack_limits",
    "unpack_limits",
]
