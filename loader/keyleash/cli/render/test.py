"""Render a test report as text and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keyleash.cli.render.explain import denial_text, step_lines
from keyleash.evaluate import Decision
from keyleash.operator.decisions import decision_json, place_json
from keyleash.policy_tests.parse import Suite
from keyleash.policy_tests.run import CaseOutcome, Coverage, TestReport, Verdict
from keyleash.text import (
    clock_time,
    counted,
    iso_time,
    json_bytes,
    json_object,
    printable,
    without_tokens,
)


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
    return "allow" if decision.allowed else denial_text(decision)


def coverage_lines(report: TestReport) -> Iterator[str]:
    """Yield a line for each pattern that decided no call."""
    for coverage in report.coverages:
        for item in coverage.uncovered:
            place = f"{item.pattern.span}: " if item.pattern.span is not None else ""
            pattern = printable(item.pattern.source)
            yield f"{place}no case covers the {item.kind} of `{pattern}` of {item.identity}"


def summary(report: TestReport, label: str | None) -> str:
    """Return the number of passed and failed cases, and the coverage, on one line."""
    parts = [f"{counted(report.count(Verdict.PASSED), 'case')} passed"]
    if failed := report.count(Verdict.FAILED):
        parts.append(f"{failed} failed")
    if disagreed := report.count(Verdict.DISAGREED):
        parts.append(f"{disagreed} with a disagreement: please report it")
    where = "the model only" if label is None else f"the model and {label}"
    patterns = f"{report.covered} of {counted(report.total, 'pattern')}"
    return f"{', '.join(parts)}, on {where}; coverage {report.percent:.0f} % ({patterns})"


def report_json(
    report: TestReport, label: str | None, min_coverage: float | None
) -> dict[str, Any]:
    """Return every case, its deciding call, and the coverage of each policy."""
    return {
        "server": label,
        "passed": report.count(Verdict.PASSED),
        "failed": report.count(Verdict.FAILED),
        "disagreed": report.count(Verdict.DISAGREED),
        "cases": [_case(*item) for item in report.outcomes],
        "coverage": {
            "percent": report.percent,
            "required": min_coverage,
            "policies": [_coverage(coverage, report) for coverage in report.coverages],
        },
    }


def _case(suite: Suite, outcome: CaseOutcome) -> dict[str, Any]:
    case, step, guard = outcome.case, outcome.step, outcome.guard
    return {
        "file": case.span.file,
        "line": step.span.line,
        "name": case.name or None,
        "identity": case.identity,
        "verdict": outcome.verdict,
        "command": [json_bytes(word) for word in step.argv],
        "call": outcome.number,
        "at": iso_time(step.at_us // 1000),
        "expected": json_object(step.expected),
        "got": decision_json(outcome.decided, suite.document.splitlines()),
        "guard": None if guard is None else json_object(guard, "code", "details"),
    }


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
