"""The findings of lint rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from keyleash.errors import Problem, Span
from keyleash.policy.model import Identity, Policy
from keyleash.results import Result
from keyleash.text import without_tokens


class Finding(NamedTuple):
    """Something that a rule finds; *span* is None for a finding about the whole identity."""

    message: str
    span: Span | None
    help: str


IdentityRule = Callable[[Identity], Iterator[Finding]]
PolicyRule = Callable[[Policy], Iterator[tuple[Identity, Finding]]]


@dataclass(frozen=True, slots=True)
class LintFinding(Result):
    """A probable mistake in a valid policy.

    Attributes:
        reason: The reason for which the document accepts it; None if it does not.
    """

    identity: str
    problem: Problem
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as `keyleash check --json` prints it, without tokens."""
        reason = without_tokens(self.reason or "")
        return {"identity": self.identity, **self.problem.to_dict(), "reason": reason}
