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

from keyleash.store.records import Client

# Calls at a pace: one as soon as another has ended, or each at its own time.
#
# A closed loop asks nothing of a slow server: while one call hangs, none of those that it
# keeps waiting is made, so none is late. Under a steady load each call has a time at which
# it is due, and what it took is counted from then on, waiting for its turn included.

_clock_ns = time.perf_counter_ns

Call = Callable[[], Any]
AsyncCall = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """The duration of a number of calls.

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
    """Call the functions in turns, so that noise affects all alike."""
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


QUIET = 0.05
"""If others had more of the time, no verdict is worth much."""


@dataclass(slots=True)
class Waited:
    """Filled in at the end of the block.

    Attributes:
        share: Time that this process or the server could have run and did not, since others
            had its core, by wall time; None if the kernel does not say.
    """

    share: float | None = None

    @property
    def noisy(self) -> bool:
        """Whether others had too much of it."""
        return self.share is not None and self.share > QUIET


@contextlib.contextmanager
def waiting_for_cores(server_pid: int, *, shared: bool = False) -> Iterator[Waited]:
    """Count while the block runs, for the main threads of this process and the server.

    Args:
        shared: Whether both are on one core, where they wait for each other. If one of the
            two can always run, whatever of the time they do not run in all is others'.
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
"""Of each kind, twice, before the first round: they connect, warm up, and show the pace."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to make calls through a client.

    Attributes:
        name: For the report.
        call: Makes one call; in the tasks of an event loop its result is awaited.
        baseline: Name of the kind that it is compared with; its own for a baseline.
        counts: What one call must count.
        coalesced: Whether several calls may share one audit event: its commands are counted.
    """

    name: str
    call: Callable[[], Any]
    baseline: str
    counts: Counts = NOTHING
    coalesced: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """Kinds that do the same.

    Attributes:
        name: What they do.
        kinds: A baseline is before those that are compared with it.
        commands: In one call.
        tasks: How many make the calls; one is plain blocking calls.
    """

    name: str
    kinds: tuple[Kind, ...]
    commands: int = 1
    tasks: int = 1


@dataclass(frozen=True, slots=True)
class Pace:
    """How much of a work is done in one round.

    Attributes:
        closed: Calls of each kind in a closed loop.
        steady: Calls of each under the steady load.
        interval_ns: From one of them to the next.
    """

    closed: tuple[int, ...]
    steady: int
    interval_ns: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One kind in one round: a closed loop, and under a steady load."""

    closed: Run
    steady: Run


@dataclass(frozen=True, slots=True)
class Tried:
    """A work in all rounds.

    Attributes:
        seen: By name of the kind, in order of rounds.
        interval_ns: From one call to the next under the steady load.
        waited: Whether others had a part of the cores.
    """

    work: Work
    seen: Mapping[str, Sequence[Seen]]
    interval_ns: int
    waited: Waited


@dataclass(frozen=True, slots=True)
class Trial:
    """Where and how much is measured.

    Attributes:
        server_pid: Of its process.
        admin: An operator's client of it.
        target: Whose calls are counted.
        runner: Of the event loop of calls in tasks.
        cores: Of server and clients.
        rounds: In each, every kind has its turn.
        run_s: About how long one kind runs in one round, closed and steady each.
    """

    server_pid: int
    admin: Client
    target: Target
    runner: asyncio.Runner
    cores: Cores
    rounds: int
    run_s: float

    def rounds_of(self, work: Work) -> Tried:
        """Measure every kind of *work* once in a round.

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
        """The steady load is half of what the slowest kind can do, for all kinds the same."""
        few = [_whole(work, TRIAL_CALLS)] * len(work.kinds)
        self._closed(work, work.kinds, few)
        # The median, lest a pause makes a pace that is no load at all.
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
        """A closed loop of each kind."""
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
        """Require that the block counts just what is expected."""
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
