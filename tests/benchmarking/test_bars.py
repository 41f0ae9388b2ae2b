"""Bars: promises, and their verdicts."""

from __future__ import annotations

import pytest
from benchmarks.support.bars import Bar, Side, bar_table


@pytest.mark.parametrize(
    ("side", "value", "met", "reached"),
    [
        (Side.AT_LEAST, 0.69, False, False),
        (Side.AT_LEAST, 0.70, True, False),
        (Side.AT_LEAST, 0.77, True, True),
        (Side.AT_MOST, 0.78, False, False),
        (Side.AT_MOST, 0.77, True, False),
        (Side.AT_MOST, 0.70, True, True),
    ],
)
def test_value_at_a_mark_counts_as_reaching_it(
    side: Side, value: float, met: bool, reached: bool
) -> None:
    """On either side; the aim lies beyond the bound."""
    bound, aim = (0.70, 0.77) if side is Side.AT_LEAST else (0.77, 0.70)
    bar = Bar("guarded SET", side, bound, "raw SET", value, aim)

    assert (bar.met, bar.reached) == (met, reached)


def test_bar_without_aim_reaches_none() -> None:
    """A bar that is met is not thereby beyond what was hoped for."""
    bar = Bar("guarded SET", Side.AT_LEAST, 0.5, "raw SET", 0.9)

    assert bar.met
    assert not bar.reached


def test_table_says_bound_aim_value_and_that_a_run_was_noisy() -> None:
    """A verdict of a noisy run is marked."""
    bar = Bar("guarded SET", Side.AT_LEAST, 0.7, "raw SET", 0.654321, 0.77)

    _, line = bar_table([("valkey 9", bar, True)]).splitlines()

    words = line.split()
    assert words[:2] == ["valkey", "9"]
    assert words[-8:] == ["≥", "0.7", "0.77", "0.654", "MISSED", "(noisy:", "measure", "again)"]
