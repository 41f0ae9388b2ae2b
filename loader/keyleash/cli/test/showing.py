"""What failed, what was covered, and how many cases there were, for people."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.cli.explain.command import refusal_words
from keyleash.cli.explain.showing import step_lines
from keyleash.cli.text import clock_time, counted, printable, without_tokens
from keyleash.decision import Decision
from keyleash.policytests.play import Verdict
from keyleash.policytests.run import Played, Report


def failure_lines(played: Played, *, trace: bool) -> Iterator[str]:
    """One line for a case that did not pass, and the steps of the decision if they are wanted."""
    outcome = played.outcome
    if outcome.verdict is Verdict.PASSED:
        return
    step, case = outcome.step, outcome.case
    call = without_tokens(" ".join(printable(word) for word in step.argv))
    which = f" (call {outcome.number} of {step.times})" if step.times > 1 else ""
    named = f"{printable(case.name)}: " if case.name else ""
    where = f"{step.span.file}:{step.span.line}"
    said = f"expected {step.expected}, got {decision_words(outcome.decided)}"
    if outcome.verdict is Verdict.DISAGREED and outcome.guard is not None:
        model, guard = decision_words(outcome.decided), decision_words(outcome.guard)
        said = f"MODEL AND GUARD DISAGREE: the model says {model}, the guard {guard}"
    yield f"{where}: {named}{case.identity}: {call}{which}: {said}"
    if trace:
        yield f"    at {clock_time(step.at_us // 1000)}"
        for line in step_lines(outcome.decided, played.suite.document.splitlines()):
            yield f"    {without_tokens(line)}"


def decision_words(decision: Decision) -> str:
    """`allow`, or the refusal as a guard says it."""
    return "allow" if decision.allowed else refusal_words(decision)


def coverage_lines(report: Report) -> Iterator[str]:
    """Each pattern that decided no call, with its place."""
    for coverage in report.coverages:
        for place in coverage.uncovered:
            pattern = place.pattern
            where = f"{pattern.span}: " if pattern.span is not None else ""
            said = f"no case comes past the {place.kind} of `{printable(pattern.source)}`"
            yield f"{where}{said} of {place.identity}"


def summary(report: Report, label: str | None) -> str:
    """How many cases passed, where, and how much was covered."""
    failed, disagreed = report.ended(Verdict.FAILED), report.ended(Verdict.DISAGREED)
    passed = len(report.played) - len(failed) - len(disagreed)
    parts = [f"{counted(passed, 'case')} passed"]
    if failed:
        parts.append(f"{len(failed)} failed")
    if disagreed:
        parts.append(f"{len(disagreed)} ended in disagreement: please report it")
    where = "the model only" if label is None else f"the model and {label}"
    return f"{', '.join(parts)}, on {where}; {_covered(report)}"


def _covered(report: Report) -> str:
    total = sum(len(one.places) for one in report.coverages)
    missed = sum(len(one.uncovered) for one in report.coverages)
    return f"coverage {report.percent:.0f} % ({total - missed} of {counted(total, 'pattern')})"
