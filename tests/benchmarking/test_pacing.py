"""Calls at a pace, by a clock that the test turns."""

from __future__ import annotations

import asyncio

import pytest
from benchmarks.support import clients
from benchmarks.support.clients import Run
from benchmarks.support.latencies import percentile_us


class Clock:
    """Moves on by a nanosecond whenever it is read, and as the test says."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that paces and measures."""
    clock = Clock()
    monkeypatch.setattr(clients, "_clock_ns", clock)
    return clock


def test_call_that_hangs_makes_the_calls_late_that_it_keeps_waiting(clock: Clock) -> None:
    """A stall of ten intervals is seen by all ten calls that were due meanwhile."""
    taken_ns = iter([10_000, *[10] * 20])

    def call() -> None:
        clock.now_ns += next(taken_ns)

    steady = clients.steadily(call, 20, 1_000)
    late = [taken for taken in steady.taken_ns if taken > 500]

    assert len(late) == 10
    assert late == sorted(late, reverse=True)


def test_closed_loop_sees_a_stall_but_once(clock: Clock) -> None:
    """Which is why the steady load is measured as well."""
    taken_ns = iter([10_000, *[10] * 20])

    def call() -> None:
        clock.now_ns += next(taken_ns)

    (closed,) = clients.in_turn([call], 20)

    assert len(closed.taken_ns) == 20
    assert sum(taken > 500 for taken in closed.taken_ns) == 1


def test_functions_in_turn_have_their_own_time_each(clock: Clock) -> None:
    """Every other turn goes backwards, and no call is counted to the neighbour."""
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
    """Under either load; the steady one lets a free task take over while others hang."""
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
def test_percentile_is_the_time_within_which_so_many_calls_ended(
    percent: float, expected_us: float
) -> None:
    """A time that was taken, not one in between."""
    run = Run([1_000 * number for number in range(10, 0, -1)], 55_000)

    assert percentile_us(run, percent) == expected_us
