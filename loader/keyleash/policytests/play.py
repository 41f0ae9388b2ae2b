"""Playing a case: every call to the model and, where there is a server, to the real guard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from keyleash.commands import CommandTable
from keyleash.decision import Decision, ModelState, decide
from keyleash.policy import Identity
from keyleash.policytests.model import Case, Expected, Step
from keyleash.protocol.request import declared_keys


class Verdict(StrEnum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    DISAGREED = "disagreed"
    """Model and guard differ: a bug of keyleash, whatever the test expects."""


@dataclass(frozen=True, slots=True)
class Outcome:
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
    step: Step
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


def judged(case: Case, decisions: Sequence[Decision], guards: Sequence[Decision] | None) -> Outcome:
    """Compare what was said to each call with what was expected, up to the first that differs."""
    at = -1
    for step in case.steps:
        for number in range(1, step.times + 1):
            at += 1
            decided = decisions[at]
            guard = None if guards is None else guards[at]
            verdict = _verdict(step.expected, decided, guard)
            if verdict is not Verdict.PASSED:
                return Outcome(case, verdict, step, number, decided, guard, (*decisions[: at + 1],))
    return Outcome(case, Verdict.PASSED, step, number, decided, guard, tuple(decisions))


def _verdict(expected: Expected, decided: Decision, guard: Decision | None) -> Verdict:
    if guard is not None and guard != decided:
        return Verdict.DISAGREED
    details = {name: decided.details.get(name) for name in expected.details}
    is_met = decided.code == expected.code and details == expected.details
    return Verdict.PASSED if is_met else Verdict.FAILED
