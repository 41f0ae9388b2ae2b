"""The benchmark of work: every case runs, and names a command that has a weight."""

from __future__ import annotations

import pytest
from benchmarks.work import QUICK_ELEMENTS, cases, main

from keyleash.commands.work import WORK


def test_every_case_is_of_a_command_whose_work_is_estimated() -> None:
    """A weight that is no longer used is not measured."""
    assert {case.name for case in cases(QUICK_ELEMENTS)} <= set(WORK)
    assert all(case.elements(QUICK_ELEMENTS) > 0 for case in cases(QUICK_ELEMENTS))


def test_quick_run_measures_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    """On the embedded server; a quick run is about whether it works, so no weight is too low."""
    assert main(["--quick"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(list(cases(QUICK_ELEMENTS)))
