"""The results of checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from keyleash.policy.problems import listing
from keyleash.store.keyspace import PUBLIC_PREFIX, Keyspace


class Severity(StrEnum):
    """The severity of a finding."""

    ERROR = "error"
    """Agents are denied or not limited, or records can be lost."""
    WARNING = "warning"
    """It becomes an error when something else happens."""
    ADVICE = "advice"
    """A setting could be safer; nothing is wrong."""


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """
    A problem of a deployment.

    Attributes:
        code: A stable code; docs/reference/doctor.md has a section for each.
        message: The problem, in a sentence.
        help: The remedy.
        node: The server; empty if all are affected.
    """

    code: str
    severity: Severity
    message: str
    help: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """
    A check that could not be made, and is neither passed nor failed.

    Attributes:
        check: The name of the check.
        reason: Why it was skipped.
    """

    check: str
    reason: str
    node: str = ""


CheckResult = DoctorFinding | Skipped


SHOWN = 5


def named(names: Iterable[str]) -> str:
    """Return the first of *names*, and the number of others."""
    return listing(names, SHOWN)


def shown_key(keyspace: Keyspace, name: str) -> str:
    """Return the name of a control key; without its secret prefix on a sealed server."""
    if keyspace.prefix == PUBLIC_PREFIX:
        return name
    return name.replace(keyspace.prefix, "<control>:")
