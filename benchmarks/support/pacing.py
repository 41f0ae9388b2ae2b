"""Calls at a pace: one as soon as another has ended, or each at its own time.

A closed loop asks nothing of a slow server: while one call hangs, none of those that it
keeps waiting is made, so none is late. Under a steady load each call has a time at which
it is due, and what it took is counted from then on, waiting for its turn included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

_clock_ns = time.perf_counter_ns

Call = Callable[[], Any]
AsyncCall = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """What so many calls took.

    Attributes:
        taken_ns: Each of them.
        wall_ns: All of them, per call; for calls in turn with others', only their own time.
    """

    taken_ns: Sequence[int]
    wall_ns: float

    @property
    def per_call_ns(self) -> float:
        """Wall time by number of calls."""
        return self.wall_ns / len(self.taken_ns)


def in_turn(functions: Sequence[Call], times: int) -> list[Run]:
    """Call each function so many times, turn and turn about, so that noise falls on all."""
    taken: list[list[int]] = [[] for _ in functions]
    turns = [(function, own.append) for function, own in zip(functions, taken, strict=True)]
    for number in range(times):
        for function, add in turns if number % 2 == 0 else reversed(turns):
            begun = _clock_ns()
            function()
            add(_clock_ns() - begun)
    return [Run(own, sum(own)) for own in taken]


def steadily(function: Call, times: int, interval_ns: int) -> Run:
    """Call the function every *interval_ns*, late if the call before has not ended yet."""
    taken = []
    begun = _clock_ns()
    for due in range(begun + interval_ns, begun + (times + 1) * interval_ns, interval_ns):
        # Not slept: that ends some 60 µs late.
        while _clock_ns() < due:
            pass
        function()
        taken.append(_clock_ns() - due)
    return Run(taken, _clock_ns() - begun)


async def in_tasks(function: AsyncCall, times: int, tasks: int) -> Run:
    """Call the function *times* times, by tasks that call again as soon as they have a reply."""
    taken: list[int] = []

    async def task() -> None:
        for _ in range(times // tasks):
            begun = _clock_ns()
            await function()
            taken.append(_clock_ns() - begun)

    begun = _clock_ns()
    await asyncio.gather(*(task() for _ in range(tasks)))
    return Run(taken, _clock_ns() - begun)


async def steadily_in_tasks(function: AsyncCall, times: int, interval_ns: int, tasks: int) -> Run:
    """Call the function every *interval_ns* in a task that is free; if none is, in the next one."""
    taken: list[int] = []
    due_ns: asyncio.Queue[int] = asyncio.Queue()

    async def task() -> None:
        while due := await due_ns.get():
            await function()
            taken.append(_clock_ns() - due)

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(task())
        begun = _clock_ns()
        for due in range(begun + interval_ns, begun + (times + 1) * interval_ns, interval_ns):
            # Not slept longer: the event loop's timers are whole milliseconds.
            while _clock_ns() < due:
                await asyncio.sleep(0)
            due_ns.put_nowait(due)
        for _ in range(tasks):
            due_ns.put_nowait(0)
    return Run(taken, _clock_ns() - begun)
