"""Trials of Python clients: closed loops, steady load and waiting for cores."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.support.measure import audited_commands, read_counts, require_counts
from benchmarks.support.policy import Target
from benchmarks.support.servers import Cores, pinned
from benchmarks.support.variants import Counts

from keyleash.store.server_check import Client

# A closed loop makes a call when the previous one ended, so a stall delays one call only.
# Under a steady load each call has a scheduled start, from which its time is measured, so a
# stall counts for all calls that it delays.

_clock_ns = time.perf_counter_ns

Call = Callable[[], Any]
AsyncCall = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """The duration of a number of calls.

    Attributes:
        taken_ns: Time of each call.
        wall_ns: Total time; for calls in turn with others, only their own.
    """

    taken_ns: Sequence[int]
    wall_ns: float

    @property
    def per_call_ns(self) -> float:
        """Return the wall time per call."""
        return self.wall_ns / len(self.taken_ns)


def in_turn(functions: Sequence[Call], times: int) -> list[Run]:
    """Call the functions in turn, so that noise affects all equally."""
    taken: list[list[int]] = [[] for _ in functions]
    turns = [(function, own.append) for function, own in zip(functions, taken, strict=True)]
    for number in range(times):
        for function, add in turns if number % 2 == 0 else reversed(turns):
            begun = _clock_ns()
            function()
            add(_clock_ns() - begun)
    return [Run(own, sum(own)) for own in taken]


def steadily(function: Call, times: int, interval_ns: int) -> Run:
    """Call the function every *interval_ns*, late if the previous call has not ended."""
    taken = []
    begun = _clock_ns()
    for due in range(begun + interval_ns, begun + (times + 1) * interval_ns, interval_ns):
        # sleep() would end about 60 µs late.
        while _clock_ns() < due:
            pass
        function()
        taken.append(_clock_ns() - due)
    return Run(taken, _clock_ns() - begun)


async def in_tasks(function: AsyncCall, times: int, tasks: int) -> Run:
    """Call the function *times* times, in tasks that call again after each reply."""
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
    """Call the function every *interval_ns* in the next free task."""
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
            # Timers of the event loop are whole milliseconds.
            while _clock_ns() < due:
                await asyncio.sleep(0)
            due_ns.put_nowait(due)
        for _ in range(tasks):
            due_ns.put_nowait(0)
    return Run(taken, _clock_ns() - begun)


QUIET = 0.05
"""Share of time used by others above which a run is noisy."""


@dataclass(slots=True)
class Waited:
    """Time lost to other processes, set at the end of the block.

    Attributes:
        share: Share of the wall time in which this process or the server waited for a core;
            None if unknown.
    """

    share: float | None = None

    @property
    def noisy(self) -> bool:
        """Return whether others used more than `QUIET`."""
        return self.share is not None and self.share > QUIET


@contextlib.contextmanager
def waiting_for_cores(server_pid: int, *, shared: bool = False) -> Iterator[Waited]:
    """Measure the time that the main threads of this process and the server wait for a core.

    Args:
        shared: Whether both use one core. They then wait for each other, and the time in which
            neither runs is lost to others.
    """
    waited = Waited()
    begun, begun_ns = _ran_and_waited_ns(server_pid), time.perf_counter_ns()
    yield waited
    wall_ns = time.perf_counter_ns() - begun_ns
    ended = _ran_and_waited_ns(server_pid)
    if begun is not None and ended is not None:
        ran_ns, waited_ns = ended[0] - begun[0], ended[1] - begun[1]
        lost_ns = wall_ns - ran_ns if shared else waited_ns
        waited.share = min(max(lost_ns / wall_ns, 0.0), 1.0)


def _ran_and_waited_ns(server_pid: int) -> tuple[int, int] | None:
    ran, waited = 0, 0
    try:
        for process in ("self", server_pid):
            # Time on the core, time waiting for it, number of slices; nanoseconds.
            own = Path(f"/proc/{process}/schedstat").read_text(encoding="ascii").split()
            ran, waited = ran + int(own[0]), waited + int(own[1])
    except OSError:
        return None
    return ran, waited


NOTHING = Counts()

TRIAL_CALLS = 100
"""Calls per kind, made twice before the first round to connect, warm up and calibrate."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to make calls through a client.

    Attributes:
        call: Makes a call; tasks await its result.
        baseline: Name of the kind that it is compared with, or its own.
        counts: Expected counts of a call.
        coalesced: Whether calls may share an audit event, whose commands are then counted.
    """

    name: str
    call: Callable[[], Any]
    baseline: str
    counts: Counts = NOTHING
    coalesced: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """Kinds of calls with the same effect.

    Attributes:
        kinds: Each baseline comes before the kinds that are compared with it.
        commands: Commands per call.
        tasks: Number of tasks; 1 means blocking calls.
    """

    name: str
    kinds: tuple[Kind, ...]
    commands: int = 1
    tasks: int = 1


@dataclass(frozen=True, slots=True)
class Pace:
    """Numbers of calls in a round.

    Attributes:
        closed: Calls per kind in a closed loop.
        steady: Calls per kind under the steady load.
        interval_ns: Interval of the steady load.
    """

    closed: tuple[int, ...]
    steady: int
    interval_ns: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Runs of a kind in one round."""

    closed: Run
    steady: Run


@dataclass(frozen=True, slots=True)
class Tried:
    """A work in all rounds.

    Attributes:
        seen: Rounds by name of the kind.
        interval_ns: Interval of the steady load.
    """

    work: Work
    seen: Mapping[str, Sequence[Seen]]
    interval_ns: int
    waited: Waited


@dataclass(frozen=True, slots=True)
class Trial:
    """A server, and the amount of measurements.

    Attributes:
        target: The identity whose calls are counted.
        runner: Runs the event loop of tasks.
        rounds: Number of rounds; in each, all kinds take turns.
        run_s: Duration per kind, round and load.
    """

    server_pid: int
    admin: Client
    target: Target
    runner: asyncio.Runner
    cores: Cores
    rounds: int
    run_s: float

    def rounds_of(self, work: Work) -> Tried:
        """Measure every kind of *work* once per round.

        Raises:
            MiscountError: a call was refused, or passed, or not audited, against expectation.
        """
        shared = work.tasks == 1 and self.cores.server is not None
        with (
            pinned(self.cores.of_clients(work.tasks)),
            waiting_for_cores(self.server_pid, shared=shared) as waited,
        ):
            pace = self._pace(work)
            seen: dict[str, list[Seen]] = defaultdict(list)
            for number in range(self.rounds):
                back = slice(None, None, 1 if number % 2 == 0 else -1)
                kinds = work.kinds[back]
                runs = self._closed(work, kinds, pace.closed[back])
                for kind, run in zip(kinds, runs, strict=True):
                    seen[kind.name].append(Seen(run, self._steady(work, kind, pace)))
        return Tried(work, seen, pace.interval_ns, waited)

    def _pace(self, work: Work) -> Pace:
        """Calibrate: the steady load is half the rate of the slowest kind."""
        few = [_whole(work, TRIAL_CALLS)] * len(work.kinds)
        self._closed(work, work.kinds, few)
        # The median, so that a pause does not result in too low a load.
        each_ns = [
            statistics.median(run.taken_ns) / work.tasks
            for run in self._closed(work, work.kinds, few)
        ]
        slowest_ns = max(each_ns)
        if work.tasks == 1:
            each_ns = [slowest_ns] * len(each_ns)  # In turn, all make as many calls.
        interval_ns = round(2 * slowest_ns)
        return Pace(
            closed=tuple(_whole(work, self.run_s * 1e9 / item) for item in each_ns),
            steady=_whole(work, self.run_s * 1e9 / interval_ns),
            interval_ns=interval_ns,
        )

    def _closed(self, work: Work, kinds: Sequence[Kind], calls: Sequence[int]) -> list[Run]:
        """Run a closed loop of each kind."""
        expected = [kind.counts.times(count) for kind, count in zip(kinds, calls, strict=True)]
        if work.tasks == 1:
            with self._counted(work.name, Counts.sum_of(expected)):
                return in_turn([kind.call for kind in kinds], calls[0])
        runs = []
        for kind, count, counts in zip(kinds, calls, expected, strict=True):
            with self._counted(kind.name, counts, coalesced=kind.coalesced):
                runs.append(self.runner.run(in_tasks(kind.call, count, work.tasks)))
        return runs

    def _steady(self, work: Work, kind: Kind, pace: Pace) -> Run:
        with self._counted(kind.name, kind.counts.times(pace.steady), coalesced=kind.coalesced):
            if work.tasks == 1:
                return steadily(kind.call, pace.steady, pace.interval_ns)
            return self.runner.run(
                steadily_in_tasks(kind.call, pace.steady, pace.interval_ns, work.tasks)
            )

    @contextlib.contextmanager
    def _counted(self, name: str, expected: Counts, *, coalesced: bool = False) -> Iterator[None]:
        """Require the expected counts during the block."""
        before = read_counts(self.admin, self.target)
        yield
        counts = read_counts(self.admin, self.target).minus(before)
        if coalesced:
            commands = audited_commands(self.admin, self.target, counts.audited)
            counts = replace(counts, audited=commands)
        require_counts(counts, expected, 1, name)


def _whole(work: Work, calls: float) -> int:
    """Return about the given number of calls, spread evenly over the tasks."""
    return max(10, round(calls / work.tasks)) * work.tasks
