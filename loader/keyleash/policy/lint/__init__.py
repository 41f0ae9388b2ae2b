"""Lint: what a valid policy says that is probably not what was meant."""

from __future__ import annotations

from dataclasses import dataclass

from keyleash.errors import Problem
from keyleash.policy.lint.accept import NEEDLESS, Accepted, accept
from keyleash.policy.lint.findings import LintFinding
from keyleash.policy.lint.rules import RULES
from keyleash.policy.model import Policy
from keyleash.policy.problems import place

__all__ = ["CODES", "Accepted", "LintFinding", "LintReport", "lint"]

CODES = (*RULES, NEEDLESS)
"""Of everything that lint may find. They are stable: people accept findings by code."""


@dataclass(frozen=True, slots=True)
class LintReport:
    """What was found, in file order, and what of it the document accepts."""

    findings: tuple[LintFinding, ...]
    accepted: tuple[Accepted, ...]

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The findings as problems, which know their places."""
        return tuple(finding.problem for finding in self.findings)


def lint(policy: Policy) -> LintReport:
    """Apply every rule to *policy*."""
    found = [item for rule in RULES.values() for item in rule(policy)]
    remaining, accepted = accept(policy, found, RULES)
    return LintReport(
        tuple(sorted(remaining, key=lambda item: place(item.problem.span))),
        tuple(sorted(accepted, key=lambda item: place(item.problem.span))),
    )
