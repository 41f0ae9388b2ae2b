"""Growth's arithmetic, and the calls that a sample is made of."""

from __future__ import annotations

import pytest
from benchmarks.growth.curves import Curve, Point, divided
from benchmarks.growth.patterns import pattern
from benchmarks.growth.sizes import key_of
from benchmarks.support.bars import Spread


def curve(*points: tuple[int, tuple[float, ...]]) -> Curve:
    return Curve("cost", tuple(Point(size, values) for size, values in points))


def test_cost_that_grows_as_the_square_root_has_exponent_a_half() -> None:
    """The exponent is that of the power law, computed per round."""
    found = curve((1, (3.0, 30.0)), (100, (30.0, 30.0)), (10_000, (300.0, 30.0))).exponent

    assert found.greatest == pytest.approx(0.5)
    assert found.least == pytest.approx(0.0)


def test_size_of_zero_does_not_affect_the_exponent() -> None:
    """It has no logarithm, but growth is relative to it."""
    found = curve((0, (7.0,)), (1, (1.0,)), (10, (10.0,)))

    assert found.exponent.median == pytest.approx(1.0)
    assert found.growth_to(10).median == pytest.approx(10 / 7)


def test_growth_is_compared_within_each_round() -> None:
    """A machine that is slower in one round must not look like growth."""
    assert curve((1, (1.0, 5.0)), (8, (2.0, 10.0))).growth_to(8) == Spread(2.0, 2.0, 2.0)


def test_cost_of_one_more_is_the_slope_without_the_constant_part() -> None:
    """The memory of the first identity includes that of the policy."""
    assert curve((1, (150.0,)), (11, (650.0,))).per_unit == pytest.approx(50.0)


def test_divided_curves_are_divided_round_by_round() -> None:
    """The ratio to a raw SET is that of the same round."""
    ratio = divided("ratio", curve((1, (6.0, 8.0))), curve((1, (3.0, 2.0))))

    assert ratio.at(1).values == (2.0, 4.0)


@pytest.mark.parametrize("size", [16, 64, 4096])
def test_key_has_the_measured_length(size: int) -> None:
    """Its `{job}` takes twelve digits."""
    assert len(key_of(size).format(job="0" * 12)) == size


def test_patterns_of_an_identity_all_differ() -> None:
    """The largest size has two hundred different patterns."""
    assert len({pattern(kind) for kind in range(200)}) == 200
