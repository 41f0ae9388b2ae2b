"""Every rule, in the order of the checklist that they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from keyleash.policy.lint import grants, limits
from keyleash.policy.lint.findings import LintFinding
from keyleash.policy.model import Policy

Rule = Callable[[Policy], Iterator[LintFinding]]

RULES: dict[str, Rule] = {
    grants.BARE_WILDCARD: grants.bare_wildcard,
    grants.MIXED_DUTIES: grants.mixed_duties,
    limits.LONG_LIVED_TOKEN: limits.long_lived_token,
    limits.NO_RATE: limits.no_rate,
    limits.NO_BUDGET: limits.no_budget,
    limits.NO_IDLE_TIMEOUT: limits.no_idle_timeout,
    limits.SHORT_RETENTION: limits.short_retention,
    grants.GRANTS_RESTORE: grants.grants_restore,
    grants.COVERED_GRANT: grants.covered_grant,
    grants.IDLE_DENY: grants.idle_deny,
    grants.SAME_SCOPE: grants.same_scope,
    grants.MISSING_DELIMITER: grants.missing_delimiter,
    limits.UNREACHABLE_BUDGET: limits.unreachable_budget,
}
"""By the code of what each finds."""
