"""Stand-ins for matchers: what is made of them can be shared by all who differ in these alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from keyleash.compiler.ir import Check, Matcher, Requirement, Rule, ScanPlan


class StandIns:
    """The stand-ins of one guard's matchers: equal for equal ones, and numbered in order."""

    def __init__(self) -> None:
        self._of: dict[Matcher, Matcher] = {}
        self._real: dict[Matcher, Matcher] = {}

    def of(self, matchers: Iterable[Matcher]) -> tuple[Matcher, ...]:
        """What stands for *matchers*."""
        return tuple(map(self._stand_in, matchers))

    def _stand_in(self, real: Matcher) -> Matcher:
        stand_in = self._of.setdefault(real, Matcher(text=b"%d" % len(self._of)))
        self._real.setdefault(stand_in, real)
        return stand_in

    def real(self, stand_ins: Iterable[Matcher]) -> tuple[Matcher, ...]:
        """The matchers for which *stand_ins* stand."""
        return tuple(self._real[one] for one in stand_ins)

    def real_check(self, check: Check) -> Check:
        """The check on real matchers."""
        requirements = (
            Requirement(one.missing, self.real(one.matchers), self.real(one.others))
            for one in check.requirements
        )
        return replace(check, requirements=tuple(requirements))

    def real_rule(self, rule: Rule) -> Rule:
        """The rule with real channels and globs; most have none, and are shared as they are."""
        if not rule.channels and rule.scan is None:
            return rule
        scan = rule.scan and ScanPlan(self.real(rule.scan.wholes), self.real(rule.scan.beginnings))
        return replace(rule, channels=self.real(rule.channels), scan=scan)
