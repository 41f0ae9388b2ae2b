"""The findings of lint rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from keyleash.errors import Problem, Span
from keyleash.policy.model import Identity, Policy


class Finding(NamedTuple):
    """Something that a rule finds; *span* is None for a finding about the whole identity."""

    message: str
    span: Span | None
    help: str


IdentityRule = Callable[[Identity], Iterator[Finding]]
PolicyRule = Callable[[Policy], Iterator[tuple[Identity, Finding]]]


@dataclass(frozen=True, slots=True)
class LintFinding:
    """A probable mistake in a valid policy.

    Attributes:
        identity: The name of its identity.
        reason: The reason for which the document accepts it; None if it does not.
    """

    identity: str
    problem: Problem
    reason: str | None = None
