"""Run policy tests on the model and on guards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from keyleash.commands import CommandTable, OperationClass
from keyleash.evaluate import Decision, ModelState, decide
from keyleash.evaluate.trace import ArgumentStep, KeyStep, Match
from keyleash.policy import Deny, Grant, Identity, Pattern, Policy
from keyleash.policy_tests.guards import Guards
from keyleash.policy_tests.model import Case, Expected, TestStep
from keyleash.policy_tests.parse import Suite
from keyleash.store.wire import declared_keys


class Verdict(StrEnum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    DISAGREED = "disagreed"
    """Model and guard differ: a bug of keyleash, whatever the test expects."""


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """
    What became of a case.

    Attributes:
        step: The last that was looked at: the one that failed, if one did.
        number: Which of its calls, from 1.
        decided: What the model said to that call.
        guard: What the real guard said; None without a server.
        decisions: What the model said to every call up to there.
    """

    case: Case
    verdict: Verdict
    step: TestStep
    number: int
    decided: Decision
    guard: Decision | None
    decisions: tuple[Decision, ...]


def model_decisions(case: Case, identity: Identity, table: CommandTable) -> Iterator[Decision]:
    """What the model says to each call of a case, from a fresh start."""
    state = ModelState()
    for step in case.steps:
        declared = [bytes(key) for key in declared_keys(table, step.argv)]
        for _ in range(step.times):
            yield decide(identity, table, step.argv, declared, state, step.at_us, step.token)


def judged(
    case: Case, decisions: Sequence[Decision], guards: Sequence[Decision] | None
) -> CaseOutcome:
    """Compare what was said to each call with what was expected, up to the first that differs."""
    at = -1
    for step in case.steps:
        for number in range(1, step.times + 1):
            at += 1
            decided = decisions[at]
            guard = None if guards is None else guards[at]
            verdict = _verdict(step.expected, decided, guard)
            if verdict is not Verdict.PASSED:
                return CaseOutcome(
                    case, verdict, step, number, decided, guard, (*decisions[: at + 1],)
                )
    return CaseOutcome(case, Verdict.PASSED, step, number, decided, guard, tuple(decisions))


def _verdict(expected: Expected, decided: Decision, guard: Decision | None) -> Verdict:
    if guard is not None and guard != decided:
        return Verdict.DISAGREED
    details = {name: decided.details.get(name) for name in expected.details}
    is_met = decided.code == expected.code and details == expected.details
    return Verdict.PASSED if is_met else Verdict.FAILED


@dataclass(frozen=True, slots=True)
class Place:
    """One pattern of one rule of an identity: what is covered or not."""

    identity: str
    kind: str
    number: int
    pattern: Pattern


@dataclass(slots=True)
class Coverage:
    """
    What the tests of one policy have come past.

    A pattern of a grant is covered if it gave a class, or the whole of a key's or a
    channel's permission; one of a deny rule if it refused a key.
    """

    policy: Policy
    covered: set[Place] = field(default_factory=set)

    def note(self, identity: Identity, decisions: Iterable[Decision]) -> None:
        """Count what decided calls of *identity*."""
        places = {(id(rule), pattern): place for rule, pattern, place in _places(identity)}
        for decision in decisions:
            for match in _deciding(decision):
                self.covered.add(places[id(match.rule), match.pattern])

    @property
    def places(self) -> list[Place]:
        """Every pattern, in the order of the policy."""
        return [place for identity in self.policy.identities for _, _, place in _places(identity)]

    @property
    def uncovered(self) -> list[Place]:
        """Those that decided nothing."""
        return [place for place in self.places if place not in self.covered]


def percent(coverages: Iterable[Coverage]) -> float:
    """Of all patterns together; 100 if there are none."""
    counts = [(len(coverage.places), len(coverage.uncovered)) for coverage in coverages]
    total = sum(places for places, _ in counts)
    return 100 * (1 - sum(uncovered for _, uncovered in counts) / total) if total else 100.0


def _places(identity: Identity) -> Iterator[tuple[Grant | Deny, Pattern, Place]]:
    for number, grant in enumerate(identity.grants):
        for pattern in (*grant.keys, *grant.channels):
            yield grant, pattern, Place(identity.name, "grant", number, pattern)
    for number, deny in enumerate(identity.deny):
        for pattern in deny.keys:
            yield deny, pattern, Place(identity.name, "deny", number, pattern)


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
class Played:
    """A case as it ended, and the file that it stands in."""

    suite: Suite
    outcome: CaseOutcome


@dataclass(frozen=True, slots=True)
class TestReport:
    """What became of all cases; `coverages` has one entry for each policy."""

    played: tuple[Played, ...]
    coverages: tuple[Coverage, ...]

    @property
    def percent(self) -> float:
        """Of the patterns of all policies."""
        return percent(self.coverages)

    def ended(self, verdict: Verdict) -> list[Played]:
        """The cases that ended so."""
        return [item for item in self.played if item.outcome.verdict is verdict]


def run_suites(
    suites: Sequence[Suite],
    table: CommandTable,
    guards: Guards | None,
    heard: Callable[[], None] = lambda: None,
) -> TestReport:
    """
    Play every case on the model, and on real guards if there are any.

    Args:
        suites: What to play.
        table: The commands: those of the guards' server.
        guards: On a server of their own; None for the model alone.
        heard: Called after each case.

    Raises:
        OperationError (guard-broke): A guard ended in an error of its own.
    """
    played: list[Played] = []
    coverages: dict[str, Coverage] = {}
    loaded: tuple[str, int] | None = None
    for suite in suites:
        coverage = coverages.setdefault(suite.policy_file, Coverage(suite.policy))
        wanted = (suite.policy_file, suite.cases.starts_us)
        if guards is not None and loaded != wanted:
            guards.load(suite.document, suite.policy_file, suite.cases.starts_us)
            loaded = wanted
        for case in suite.cases.cases:
            identity = suite.policy.identity(case.identity)
            assert identity is not None  # noqa: S101 - `read_suites` looked
            decisions = list(model_decisions(case, identity, table))
            real = None if guards is None else guards.decisions(case, identity)
            outcome = judged(case, decisions, real)
            coverage.note(identity, outcome.decisions)
            played.append(Played(suite, outcome))
            heard()
    return TestReport(tuple(played), tuple(coverages.values()))
