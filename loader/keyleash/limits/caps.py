"""Caps: budgets that a token has of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from keyleash.limits.budget import Budget
from keyleash.limits.calendar import PERIOD_US, Period
from keyleash.limits.counters import Counter, Subject, SubjectKind

CAP_COUNTERS = tuple(Counter)
"""The counters of caps. In records a counter is its place here, from 1."""

_TOKEN = Subject(SubjectKind.TOKEN)


@dataclass(frozen=True, slots=True)
class Cap(Budget):
    """A quota of a token: per calendar window in UTC, or for its life.

    Attributes:
        is_for_life: Whether the window ends with the token, whatever the period.
    """

    FIELD: ClassVar = "token"

    subject: Subject = _TOKEN
    is_for_life: bool = False

    @classmethod
    def of(cls, counter: Counter) -> Cap:
        """Return a cap of a counter that allows nothing."""
        return cls(counter, 0, Period.MONTH, is_for_life=True)

    @property
    def period_us(self) -> int:
        """The usual length of its window; 0 for the life of the token."""
        return 0 if self.is_for_life else PERIOD_US[self.period]

    @property
    def short(self) -> str:
        """The cap as it is given: `requests 200`, `writes 50/hour`."""
        return f"{self.counter} {self.counter.shown(self.limit)}" + (
            "" if self.is_for_life else f"/{self.period}"
        )

    def describe(self) -> str:
        if self.is_for_life:
            return f"{self.counter.shown(self.limit)} for the life of the token"
        return Budget.describe(self)
