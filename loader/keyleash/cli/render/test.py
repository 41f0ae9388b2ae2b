"""Render a test report as text and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keyleash.cli.render.explain import decision_json, denial_text, place_json, step_lines
from keyleash.evaluate import Decision
from keyleash.policy_tests.run import Coverage, Played, TestReport, Verdict
from keyleash.store.token import without_tokens
from keyleash.text import clock_time, counted, iso_time, json_bytes, printable


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
    return "allow" if decision.allowed else denial_text(decision)


def coverage_lines(report: TestReport) -> Iterator[str]:
    """Each pattern that decided no call, with its place."""
    for coverage in report.coverages:
        for place in coverage.uncovered:
            pattern = place.pattern
            where = f"{pattern.span}: " if pattern.span is not None else ""
            said = f"no case comes past the {place.kind} of `{printable(pattern.source)}`"
            yield f"{where}{said} of {place.identity}"


def summary(report: TestReport, label: str | None) -> str:
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


def _covered(report: TestReport) -> str:
    total = sum(len(coverage.places) for coverage in report.coverages)
    missed = sum(len(coverage.uncovered) for coverage in report.coverages)
    return f"coverage {report.percent:.0f} % ({total - missed} of {counted(total, 'pattern')})"


def report_json(
    report: TestReport, label: str | None, min_coverage: float | None
) -> dict[str, Any]:
    """Every case, the deciding call of each, and the coverage of each policy."""
    return {
        "server": label,
        "passed": len(report.ended(Verdict.PASSED)),
        "failed": len(report.ended(Verdict.FAILED)),
        "disagreed": len(report.ended(Verdict.DISAGREED)),
        "cases": [_case(item) for item in report.played],
        "coverage": {
            "percent": report.percent,
            "required": min_coverage,
            "policies": [_coverage(coverage, report) for coverage in report.coverages],
        },
    }


def _case(played: Played) -> dict[str, Any]:
    outcome, lines = played.outcome, played.suite.document.splitlines()
    case, step, guard = outcome.case, outcome.step, outcome.guard
    return {
        "file": case.span.file,
        "line": step.span.line,
        "name": case.name or None,
        "identity": case.identity,
        "verdict": str(outcome.verdict),
        "command": [json_bytes(word) for word in step.argv],
        "call": outcome.number,
        "at": iso_time(step.at_us // 1000),
        "expected": {
            "code": None if step.expected.code is None else str(step.expected.code),
            "details": dict(step.expected.details),
        },
        "got": decision_json(outcome.decided, lines),
        "guard": None
        if guard is None
        else {"code": None if guard.code is None else str(guard.code), "details": guard.details},
    }


def _coverage(coverage: Coverage, report: TestReport) -> dict[str, Any]:
    suite = next(item.suite for item in report.played if item.suite.policy is coverage.policy)
    lines = suite.document.splitlines()
    return {
        "policy": suite.policy_file,
        "patterns": len(coverage.places),
        "uncovered": [
            {
                "identity": item.identity,
                "kind": item.kind,
                "pattern": item.pattern.source,
                "place": place_json(item.pattern.span, lines),
            }
            for item in coverage.uncovered
        ],
    }
