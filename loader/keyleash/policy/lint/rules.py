"""Every rule, in the order of the checklist that they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from keyleash.policy.lint import (
    bare_wildcard,
    covered_grant,
    grants_restore,
    idle_deny,
    long_lived_token,
    missing_delimiter,
    mixed_duties,
    no_budget,
    no_idle_timeout,
    no_rate,
    same_scope,
    short_retention,
    unreachable_budget,
)
from keyleash.policy.lint.finding import Finding
from keyleash.policy.model import Policy

Rule = Callable[[Policy], Iterator[Finding]]

RULES: dict[str, Rule] = {
    bare_wildcard.CODE: bare_wildcard.bare_wildcard,
    mixed_duties.CODE: mixed_duties.mixed_duties,
    long_lived_token.CODE: long_lived_token.long_lived_token,
    no_rate.CODE: no_rate.no_rate,
    no_budget.CODE: no_budget.no_budget,
    no_idle_timeout.CODE: no_idle_timeout.no_idle_timeout,
    short_retention.CODE: short_retention.short_retention,
    grants_restore.CODE: grants_restore.grants_restore,
    covered_grant.CODE: covered_grant.covered_grant,
    idle_deny.CODE: idle_deny.idle_deny,
    same_scope.CODE: same_scope.same_scope,
    missing_delimiter.CODE: missing_delimiter.missing_delimiter,
    unreachable_budget.CODE: unreachable_budget.unreachable_budget,
}
"""By the code of what each finds."""
