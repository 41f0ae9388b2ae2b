"""Lint: probable mistakes in a valid policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from keyleash.errors import Problem
from keyleash.policy.lint import cluster_rules, grant_rules, limit_rules
from keyleash.policy.lint.findings import Finding, IdentityRule, LintFinding, PolicyRule
from keyleash.policy.model import Identity, IdentityKind, Policy
from keyleash.policy.patterns import NOWHERE
from keyleash.policy.problems import did_you_mean, listing, place, quote
from keyleash.results import Result

__all__ = ["CODES", "LintFinding", "LintReport", "lint"]


def _each(rule: IdentityRule, kind: IdentityKind | None = None) -> PolicyRule:
    """Return the rule that applies *rule* to each identity of a kind."""

    def apply(policy: Policy) -> Iterator[tuple[Identity, Finding]]:
        for identity in policy.identities:
            if kind in (None, identity.kind):
                yield from ((identity, finding) for finding in rule(identity))

    return apply


def _on_clusters(rule: IdentityRule) -> IdentityRule:
    """Return the rule for identities whose policy sets `cluster`: others may be for one server."""
    return lambda identity: rule(identity) if identity.cluster.span else iter(())


MACHINE, HUMAN = IdentityKind.MACHINE, IdentityKind.HUMAN
RULES: dict[str, PolicyRule] = {
    "bare-wildcard": _each(grant_rules.bare_wildcard, MACHINE),
    "control-keys": _each(grant_rules.control_keys),
    "mixed-duties": _each(grant_rules.mixed_duties),
    "long-lived-token": _each(limit_rules.long_lived_token),
    "no-rate": _each(limit_rules.no_rate, MACHINE),
    "no-budget": _each(limit_rules.no_budget, MACHINE),
    "no-idle-timeout": _each(limit_rules.no_idle_timeout, HUMAN),
    "short-retention": _each(limit_rules.short_retention),
    "grants-restore": _each(grant_rules.grants_restore),
    "script-builds-keys": _each(grant_rules.script_builds_keys),
    "script-cannot-work": _each(grant_rules.script_cannot_work),
    "covered-grant": _each(grant_rules.covered_grant),
    "idle-deny": _each(grant_rules.idle_deny),
    "same-scope": grant_rules.same_scope,
    "missing-delimiter": grant_rules.missing_delimiter,
    "index-prefix-open": _each(grant_rules.index_prefix_open),
    "index-cannot-work": _each(grant_rules.index_cannot_work),
    "unreachable-budget": _each(limit_rules.unreachable_budget),
    "unreachable-life": _each(limit_rules.unreachable_life),
    "idle-flush": _each(limit_rules.idle_flush),
    "long-lease": _each(_on_clusters(cluster_rules.long_lease)),
    "small-rate": _each(_on_clusters(cluster_rules.small_rate)),
}
"""The rules by code, in the order of docs/reference/lint.md."""

NEEDLESS = "needless-accept"
"""The code of an `accept` entry without a finding."""

CODES = (*RULES, NEEDLESS)
"""The codes of all findings. They are stable, since documents accept findings by code."""


@dataclass(frozen=True, slots=True)
class LintReport(Result):
    """The findings in a policy, in file order, and those that the document accepts."""

    findings: tuple[LintFinding, ...]
    accepted: tuple[LintFinding, ...]

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The findings as problems, each with its place."""
        return tuple(finding.problem for finding in self.findings)


def lint(policy: Policy) -> LintReport:
    """Apply every rule to *policy*."""
    reasons = {
        (identity.name, item.code): item.reason
        for identity in policy.identities
        for item in identity.accepted
    }
    findings = []
    used = set()
    for code, rule in RULES.items():
        for identity, finding in rule(policy):
            used.add((identity.name, code))
            reason = reasons.get((identity.name, code))
            findings.append(replace(_lint_finding(code, identity, finding), reason=reason))
    for identity in policy.identities:
        for item in identity.accepted:
            if (identity.name, item.code) not in used:
                if item.code in RULES:
                    message, help = f"there is no {quote(item.code)} to accept here", "remove it"
                else:
                    message = f"unknown finding {quote(item.code)}"
                    help = did_you_mean(item.code, RULES, f"the findings are {listing(RULES)}")
                finding = Finding(message, item.span, help)
                findings.append(_lint_finding(NEEDLESS, identity, finding))
    findings.sort(key=lambda item: place(item.problem.span))
    return LintReport(
        tuple(item for item in findings if item.reason is None),
        tuple(item for item in findings if item.reason is not None),
    )


def _lint_finding(code: str, identity: Identity, finding: Finding) -> LintFinding:
    span = finding.span or identity.span or NOWHERE
    return LintFinding(identity.name, Problem(code, finding.message, span, finding.help))
