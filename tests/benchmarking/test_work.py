"""The benchmark of work: all cases run, and their commands have weights."""

from __future__ import annotations

import pytest
from benchmarks.work import QUICK_ELEMENTS, cases, main

from keyleash.commands.work import WORK


def test_every_case_has_a_command_with_a_weight() -> None:
    """Only used weights are measured."""
    assert {case.name for case in cases(QUICK_ELEMENTS)} <= set(WORK)
    assert all(case.elements(QUICK_ELEMENTS) > 0 for case in cases(QUICK_ELEMENTS))


def test_quick_run_measures_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    """A quick run checks that the cases work, not the weights."""
    assert main(["--quick"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(list(cases(QUICK_ELEMENTS)))
