"""Run policy tests on the model and on guards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from keyleash.addons.policy_tests.guards import Guards
from keyleash.addons.policy_tests.invariants import broken_by
from keyleash.addons.policy_tests.model import Case, Expected, Invariant, TestStep
from keyleash.addons.policy_tests.parse import Suite
from keyleash.commands import CommandTable, OperationClass
from keyleash.commands.facts import INDEXES
from keyleash.errors import Problem
from keyleash.evaluate.client_calls import client_call, decide_client_call
from keyleash.evaluate.evaluate import note_refusal
from keyleash.evaluate.state import ModelState
from keyleash.evaluate.trace import ArgumentStep, Decision, GuardStep, KeyStep, Match, confirmed
from keyleash.limits.caps import Cap
from keyleash.operator.decisions import decision_json, place_json
from keyleash.policy import Deny, Grant, Identity, Pattern, Policy
from keyleash.results import Result
from keyleash.store.trial import LIFE_MS
from keyleash.text import iso_time, json_bytes, json_object, to_json


class Verdict(StrEnum):
    """The result of a case."""

    PASSED = "passed"
    FAILED = "failed"
    DISAGREED = "disagreed"
    """Model and guard differ: a bug of keyleash, whatever the case expects."""


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """
    The verdict on a case.

    Attributes:
        step: The step of the first call that failed, or the last one.
        number: The number of that call within the step, from 1.
        guard: The real guard's decision about that call; None without a server.
        decisions: The model's decisions about every call up to that one.
    """

    case: Case
    verdict: Verdict
    step: TestStep
    number: int
    guard: Decision | None
    decisions: tuple[Decision, ...]

    @property
    def decided(self) -> Decision:
        """The model's decision about the call."""
        return self.decisions[-1]


def model_decisions(
    case: Case, identity: Identity, table: CommandTable, real: Sequence[Decision] | None = None
) -> Iterator[Decision]:
    """Yield the model's decision about each call of a case; counters start at 0.

    Args:
        real: The guard's decisions, which stand where the model's is open.
    """
    answers = iter(real or ())
    state, restrictions = ModelState(), case.restrictions(identity)
    for step in case.steps:
        call = client_call(identity, step.argv)
        # With the counts of its caps; those for its life end with it.
        state.restrictions = restrictions.get(step.token)
        for count in state.restrictions.counts if state.restrictions else ():
            if isinstance(count.limit, Cap) and count.limit.is_for_life:
                count.ends_us = step.at_us + LIFE_MS * 1000
        for _ in range(step.times):
            before = deepcopy(state) if real else state
            decision = decide_client_call(identity, table, call, state, step.at_us, step.token)
            guard = next(answers, None)
            if guard is not None and decision.is_open:
                decision = confirmed(decision, guard)
            if not decision.allowed and isinstance(decision.trace[-1], GuardStep):
                # The model has charged it.
                state = before
                note_refusal(identity, state, step.at_us)
            yield decision


def judged(
    case: Case, decisions: Sequence[Decision], guards: Sequence[Decision] | None
) -> CaseOutcome:
    """Compare decisions with the expected ones, up to the first call that differs."""
    calls = [(step, number) for step in case.steps for number in range(1, step.times + 1)]
    for place, (step, _) in enumerate(calls):
        guard = None if guards is None else guards[place]
        verdict = _verdict(step.expected, decisions[place], guard)
        if verdict is not Verdict.PASSED:
            break
    return CaseOutcome(case, verdict, *calls[place], guard, tuple(decisions[: place + 1]))


def _verdict(expected: Expected, decided: Decision, guard: Decision | None) -> Verdict:
    if guard is not None and guard != decided:
        return Verdict.DISAGREED
    details = {name: decided.details.get(name) for name in expected.details}
    is_met = decided.code == expected.code and details == expected.details
    return Verdict.PASSED if is_met else Verdict.FAILED


@dataclass(frozen=True, slots=True)
class RulePattern:
    """A pattern of a rule of an identity."""

    identity: str
    kind: str
    number: int
    pattern: Pattern


@dataclass(slots=True)
class Coverage:
    """
    The patterns of a policy, and those that decided a call of its tests.

    A pattern of a grant is covered if it granted a class, or all that a key or a channel needs;
    one of a deny rule if it denied a key.
    """

    policy: Policy
    covered: set[RulePattern] = field(default_factory=set)

    def note(self, identity: Identity, decisions: Iterable[Decision]) -> None:
        """Add the patterns that decided calls of *identity*."""
        patterns = {(id(rule), item.pattern): item for rule, item in _patterns(identity)}
        for decision in decisions:
            for match in _deciding(decision):
                self.covered.add(patterns[id(match.rule), match.pattern])

    @property
    def patterns(self) -> list[RulePattern]:
        """Every pattern, in the order of the policy."""
        return [item for identity in self.policy.identities for _, item in _patterns(identity)]

    @property
    def uncovered(self) -> list[RulePattern]:
        """The patterns that decided no call."""
        return [item for item in self.patterns if item not in self.covered]


def _patterns(identity: Identity) -> Iterator[tuple[Grant | Deny, RulePattern]]:
    for number, grant in enumerate(identity.grants):
        for pattern in (*grant.keys, *grant.channels, *grant.indexes):
            yield grant, RulePattern(identity.name, "grant", number, pattern)
    for number, deny in enumerate(identity.deny):
        for pattern in deny.keys:
            yield deny, RulePattern(identity.name, "deny", number, pattern)


def _deciding(decision: Decision) -> Iterator[Match[Grant] | Match[Deny]]:
    for step in decision.trace:
        match step:
            case KeyStep(denied_by=(_, *_)):
                yield from step.denied_by
            case KeyStep(code=None):
                yield from (item for item in step.granted_by if _gives(item, step.needs))
            case ArgumentStep(code=None):
                yield from step.granted_by


def _gives(match: Match[Grant], needs: tuple[OperationClass, ...]) -> bool:
    return not needs or not set(needs).isdisjoint(match.rule.allow)


@dataclass(frozen=True, slots=True)
class TestReport(Result):
    """
    The outcomes of all cases.

    Attributes:
        outcomes: Each case with its file and outcome.
        coverages: The coverage of each policy.
        server: The server of the real guards; None without one.
        required: The required coverage in percent; None if any is enough.
        invariants: Each invariant, with what breaks it.
    """

    outcomes: tuple[tuple[Suite, CaseOutcome], ...]
    coverages: tuple[Coverage, ...]
    server: str | None = None
    required: float | None = None
    invariants: tuple[tuple[Invariant, tuple[Problem, ...]], ...] = ()

    @property
    def broken(self) -> tuple[Problem, ...]:
        """The problems of all broken invariants."""
        return tuple(problem for _, problems in self.invariants for problem in problems)

    @property
    def total(self) -> int:
        """The number of patterns of all policies."""
        return sum(len(coverage.patterns) for coverage in self.coverages)

    @property
    def covered(self) -> int:
        """The number of patterns that decided a call."""
        return sum(len(coverage.covered) for coverage in self.coverages)

    @property
    def percent(self) -> float:
        """The share of covered patterns; 100 if there are no patterns."""
        return 100 * self.covered / self.total if self.total else 100.0

    def count(self, verdict: Verdict) -> int:
        """Return the number of cases with *verdict*."""
        return sum(outcome.verdict is verdict for _, outcome in self.outcomes)

    @property
    def is_below(self) -> bool:
        """Return whether the coverage is below the required one."""
        return self.required is not None and self.percent < self.required

    def to_dict(self) -> dict[str, Any]:
        """Return every case, its deciding call, invariants, and the coverage of each policy.

        `keyleash test --json` prints it.
        """
        return {
            "server": self.server,
            **{verdict.value: self.count(verdict) for verdict in Verdict},
            "cases": [_case(*item) for item in self.outcomes],
            "invariants": [_invariant(*item) for item in self.invariants],
            "coverage": {
                "percent": self.percent,
                "required": self.required,
                "policies": [_coverage(coverage, self) for coverage in self.coverages],
            },
        }


def _case(suite: Suite, outcome: CaseOutcome) -> dict[str, Any]:
    case, step, guard = outcome.case, outcome.step, outcome.guard
    return {
        "file": case.span.file,
        "line": step.span.line,
        "name": case.name or None,
        "identity": case.identity,
        "verdict": outcome.verdict.value,
        "command": [json_bytes(word) for word in step.argv],
        "call": outcome.number,
        "at": iso_time(step.at_us // 1000),
        "expected": json_object(step.expected),
        "got": decision_json(outcome.decided, suite.document.splitlines()),
        "guard": None if guard is None else json_object(guard, "code", "details"),
    }


def _invariant(invariant: Invariant, broken: tuple[Problem, ...]) -> dict[str, Any]:
    place = {"file": invariant.span.file, "line": invariant.span.line}
    rule = json_object(invariant, "rule", "classes")
    return {**place, "name": invariant.name or None, **rule, "broken": to_json(broken)}


def _coverage(coverage: Coverage, report: TestReport) -> dict[str, Any]:
    suite = next(suite for suite, _ in report.outcomes if suite.policy is coverage.policy)
    lines = suite.document.splitlines()
    return {
        "policy": suite.policy_file,
        "patterns": len(coverage.patterns),
        "uncovered": [
            {
                **json_object(item, "identity", "kind"),
                "pattern": item.pattern.source,
                "place": place_json(item.pattern.span, lines),
            }
            for item in coverage.uncovered
        ],
    }


def run_suites(
    suites: Sequence[Suite],
    table: CommandTable,
    guards: Guards | None,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> TestReport:
    """
    Decide every invariant; run every case on the model, and on real guards if there are any.

    Args:
        guards: The real guards; None for the model alone.
        report: Called after each case with the number of finished cases and of all.

    Raises:
        OperationError (guard-broke): A guard ended in an error of its own.
    """
    outcomes: list[tuple[Suite, CaseOutcome]] = []
    coverages: dict[str, Coverage] = {}
    invariants: list[tuple[Invariant, tuple[Problem, ...]]] = []
    total = sum(len(suite.cases.cases) for suite in suites)
    loaded: tuple[str, int] | None = None
    for suite in suites:
        for invariant in suite.cases.invariants:
            broken = broken_by(invariant, suite.policy, table, suite.policy_file)
            invariants.append((invariant, broken))
        if not suite.cases.cases:
            continue
        coverage = coverages.setdefault(suite.policy_file, Coverage(suite.policy))
        wanted = (suite.policy_file, suite.cases.starts_us)
        if guards is not None and loaded != wanted:
            guards.load(suite.document, suite.policy_file, suite.cases.starts_us)
            loaded = wanted
        for case in suite.cases.cases:
            identity = suite.policy.identity(case.identity)
            assert identity is not None  # noqa: S101 - `read_suites` checked it
            calls = [client_call(identity, step.argv) for step in case.steps]
            names = [step.argv[0].decode("latin-1") for step in case.steps]
            # A guard would run a script, with denials and errors of its commands.
            is_real = all(len(call.calls) == 1 for call in calls)
            is_real &= guards is not None and (guards.searches or INDEXES.keys().isdisjoint(names))
            real = guards.decisions(case, identity) if guards and is_real else None
            decisions = list(model_decisions(case, identity, table, real))
            outcome = judged(case, decisions, real)
            coverage.note(identity, outcome.decisions)
            outcomes.append((suite, outcome))
            report(len(outcomes), total)
    return TestReport(tuple(outcomes), tuple(coverages.values()), invariants=tuple(invariants))
