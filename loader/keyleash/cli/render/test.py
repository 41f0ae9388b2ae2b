"""Render a test report as text."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.commands.facts import INDEXES
from keyleash.evaluate.decision_text import step_lines
from keyleash.evaluate.trace import Decision
from keyleash.policy_tests.parse import Suite
from keyleash.policy_tests.run import CaseOutcome, TestReport, Verdict
from keyleash.text import clock_time, counted, printable, without_tokens


def failure_lines(suite: Suite, outcome: CaseOutcome, *, trace: bool) -> Iterator[str]:
    """Yield a line for a case that did not pass, and with *trace* the steps of the decision."""
    if outcome.verdict is Verdict.PASSED:
        return
    step, case = outcome.step, outcome.case
    call = without_tokens(" ".join(printable(word) for word in step.argv))
    number = f" (call {outcome.number} of {step.times})" if step.times > 1 else ""
    name = f"{printable(case.name)}: " if case.name else ""
    model = _decision_text(outcome.decided)
    difference = f"expected {step.expected}, got {model}"
    if outcome.verdict is Verdict.DISAGREED and outcome.guard is not None:
        guard = _decision_text(outcome.guard)
        difference = f"MODEL AND GUARD DISAGREE: model {model}, guard {guard}"
    place = f"{step.span.file}:{step.span.line}"
    yield f"{place}: {name}{case.identity}: {call}{number}: {difference}"
    if trace:
        yield f"    at {clock_time(step.at_us // 1000)}"
        for line in step_lines(outcome.decided, suite.document.splitlines()):
            yield f"    {without_tokens(line)}"


def _decision_text(decision: Decision) -> str:
    """Return a decision as a case of the file expects it: the code, and details."""
    details = (f"{name}={printable(value)}" for name, value in decision.details.items())
    return "allow" if decision.code is None else without_tokens(" ".join([decision.code, *details]))


def coverage_lines(report: TestReport) -> Iterator[str]:
    """Yield a line for each pattern that decided no call."""
    for coverage in report.coverages:
        for item in coverage.uncovered:
            place = f"{item.pattern.span}: " if item.pattern.span is not None else ""
            pattern = printable(item.pattern.source)
            yield f"{place}note: no case covers the {item.kind} of `{pattern}` of {item.identity}"


def summary(report: TestReport) -> str:
    """Return the number of passed and failed cases, and the coverage, on one line."""
    parts = [f"{counted(report.count(Verdict.PASSED), 'case')} passed"]
    if report.invariants:
        holding = sum(not broken for _, broken in report.invariants)
        verb = "holds" if holding == 1 else "hold"
        parts.append(f"{holding} of {counted(len(report.invariants), 'invariant')} {verb}")
    if failed := report.count(Verdict.FAILED):
        parts.append(f"{failed} failed")
    if disagreed := report.count(Verdict.DISAGREED):
        parts.append(f"{disagreed} with a disagreement: please report it")
    alone = [outcome.case for _, outcome in report.outcomes if outcome.guard is None]
    names = {step.argv[0].decode("latin-1") for case in alone for step in case.steps}
    notes = ["searches need `--server` and the module Search"] if names & INDEXES.keys() else []
    where = "the model only"
    if report.server and len(alone) < len(report.outcomes):
        where = f"the model and {report.server}"
        notes[:0] = [f"{len(alone)} on the model only"] if alone else []
    where += f" ({'; '.join(notes)})" if notes else ""
    patterns = f"{report.covered} of {counted(report.total, 'pattern')}"
    return f"{', '.join(parts)}, on {where}; coverage {report.percent:.0f} % ({patterns})"
