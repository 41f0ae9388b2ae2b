"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Agents are refused or are not held back, or what was recorded can be lost."""
    WARNING = "warning"
    """It becomes one of these when something else happens."""
    ADVICE = "advice"
    """A setting that is safer otherwise; nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    Something that is not as it should be.

    Attributes:
        code: Stable; docs/operations.md has a section for each.
        message: What it is, in a sentence.
        help: What to do.
        node: Which server; empty if it is about all of them.
    """

    code: str
    severity: Severity
    message: str
    help: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """
    A check that could not be made, so that nobody takes silence for health.

    Attributes:
        check: What would have been looked at.
        reason: Why it was not.
    """

    check: str
    reason: str
    node: str = ""


Said = Finding | Skipped
