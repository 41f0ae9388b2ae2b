"""Pacing of calls, with a simulated clock."""

from __future__ import annotations

import asyncio

import pytest
from benchmarks.support import clients
from benchmarks.support.clients import Run
from benchmarks.support.latencies import percentile_us


class Clock:
    """A clock that advances by a nanosecond per reading."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A simulated clock for pacing and measuring."""
    clock = Clock()
    monkeypatch.setattr(clients, "_clock_ns", clock)
    return clock


def test_stalled_call_delays_the_calls_that_wait_for_it(clock: Clock) -> None:
    """A stall of ten intervals delays ten calls."""
    taken_ns = iter([10_000, *[10] * 20])

    def call() -> None:
        clock.now_ns += next(taken_ns)

    steady = clients.steadily(call, 20, 1_000)
    late = [taken for taken in steady.taken_ns if taken > 500]

    assert len(late) == 10
    assert late == sorted(late, reverse=True)


def test_closed_loop_counts_a_stall_once(clock: Clock) -> None:
    """A closed loop hides delays, so a steady load is measured as well."""
    taken_ns = iter([10_000, *[10] * 20])

    def call() -> None:
        clock.now_ns += next(taken_ns)

    (closed,) = clients.in_turn([call], 20)

    assert len(closed.taken_ns) == 20
    assert sum(taken > 500 for taken in closed.taken_ns) == 1


def test_functions_in_turn_have_separate_times(clock: Clock) -> None:
    """Every other turn is reversed, and each call counts for its own function."""
    made: list[str] = []

    def short() -> None:
        made.append("short")
        clock.now_ns += 10

    def long() -> None:
        made.append("long")
        clock.now_ns += 1_000

    brief, lengthy = clients.in_turn([short, long], 2)

    assert made == ["short", "long", "long", "short"]
    assert list(brief.taken_ns) == [11, 11]
    assert list(lengthy.taken_ns) == [1_001, 1_001]
    assert lengthy.per_call_ns == 1_001


def test_tasks_make_all_calls_at_once_and_no_more(clock: Clock) -> None:
    """Under both loads the number of concurrent calls is the number of tasks."""
    running, most = 0, 0

    async def call() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    closed = asyncio.run(clients.in_tasks(call, 40, 4))
    steady = asyncio.run(clients.steadily_in_tasks(call, 40, 5, 4))

    assert len(closed.taken_ns) == len(steady.taken_ns) == 40
    assert most == 4
    assert clock.now_ns > 40 * 5


@pytest.mark.parametrize(("percent", "expected_us"), [(50, 5), (90, 9), (99, 10), (99.9, 10)])
def test_percentile_is_a_measured_time_by_nearest_rank(percent: float, expected_us: float) -> None:
    """Percentiles are not interpolated."""
    run = Run([1_000 * number for number in range(10, 0, -1)], 55_000)

    assert percentile_us(run, percent) == expected_us
