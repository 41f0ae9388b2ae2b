"""Findings of a check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from keyleash.policy.problems import listing
from keyleash.store.keyspace import PUBLIC_PREFIX, Keyspace


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Agents are refused or are not held back, or what was recorded can be lost."""
    WARNING = "warning"
    """It becomes one of these when something else happens."""
    ADVICE = "advice"
    """A setting that is safer otherwise; nothing is wrong."""


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """
    Something that is not as it should be.

    Attributes:
        code: Stable; docs/reference/doctor.md has a section for each.
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


CheckResult = DoctorFinding | Skipped


SHOWN = 5


def named(names: Iterable[str]) -> str:
    """The first of *names*, and how many more there are."""
    return listing(names, SHOWN)


def shown_key(keyspace: Keyspace, name: str) -> str:
    """The name of a control key, of a sealed server without the prefix: that is for no log."""
    if keyspace.prefix == PUBLIC_PREFIX:
        return name
    return name.replace(keyspace.prefix, "<control>:")
