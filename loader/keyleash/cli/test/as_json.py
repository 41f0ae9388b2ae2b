"""The same for programs."""

from __future__ import annotations

from typing import Any

from keyleash.cli.explain.as_json import decision_json, place_json
from keyleash.cli.text import iso_time, json_bytes
from keyleash.policytests.coverage import Coverage
from keyleash.policytests.play import Verdict
from keyleash.policytests.run import Played, Report


def report_json(report: Report, label: str | None, min_coverage: float | None) -> dict[str, Any]:
    """Every case, the deciding call of each, and the coverage of each policy."""
    return {
        "server": label,
        "passed": len(report.ended(Verdict.PASSED)),
        "failed": len(report.ended(Verdict.FAILED)),
        "disagreed": len(report.ended(Verdict.DISAGREED)),
        "cases": [_case(one) for one in report.played],
        "coverage": {
            "percent": report.percent,
            "required": min_coverage,
            "policies": [_coverage(one, report) for one in report.coverages],
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


def _coverage(coverage: Coverage, report: Report) -> dict[str, Any]:
    suite = next(one.suite for one in report.played if one.suite.policy is coverage.policy)
    lines = suite.document.splitlines()
    return {
        "policy": suite.policy_file,
        "patterns": len(coverage.places),
        "uncovered": [
            {
                "identity": one.identity,
                "kind": one.kind,
                "pattern": one.pattern.source,
                "place": place_json(one.pattern.span, lines),
            }
            for one in coverage.uncovered
        ],
    }
