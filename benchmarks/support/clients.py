"""The clients compared: the same work through redis-py and through keyleash, in rounds."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.support.measure import audited_commands, read_counts, require_counts
from benchmarks.support.pacing import Run, in_tasks, in_turn, steadily, steadily_in_tasks
from benchmarks.support.policy import Target
from benchmarks.support.servers import Cores, pinned
from benchmarks.support.variants import Counts
from benchmarks.support.waits import Waited, waiting_for_cores

from keyleash.protocol.active import Client

NOTHING = Counts()


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

        The steady load is half of what the slowest kind can do, for all kinds the same.

        Raises:
            MiscountError: a call was refused, or passed, or not audited, against expectation.
        """
        alone = work.tasks == 1
        with (
            pinned(self.cores.of_clients(work.tasks)),
            waiting_for_cores(
                self.server_pid, shared=alone and self.cores.server is not None
            ) as waited,
        ):
            self._closed(work, [_whole(work, 0)] * len(work.kinds))
            each_ns = [
                run.per_call_ns for run in self._closed(work, [_whole(work, 0)] * len(work.kinds))
            ]
            # In turn all make as many; by tasks each makes what it can in its time.
            closed = [
                _whole(work, self.run_s * 1e9 / (max(each_ns) if alone else one_ns))
                for one_ns in each_ns
            ]
            interval_ns = round(2 * max(each_ns))
            steady = _whole(work, self.run_s * 1e9 / interval_ns)
            seen: dict[str, list[Seen]] = defaultdict(list)
            for number in range(self.rounds):
                back = slice(None, None, 1 if number % 2 == 0 else -1)
                turned = replace(work, kinds=work.kinds[back])
                runs = self._closed(turned, closed[back])
                for kind, run in zip(turned.kinds, runs, strict=True):
                    seen[kind.name].append(Seen(run, self._steady(work, kind, steady, interval_ns)))
        return Tried(work, seen, interval_ns, waited)

    def _closed(self, work: Work, times: Sequence[int]) -> list[Run]:
        """A closed loop of each kind, *times* its calls."""
        if work.tasks == 1:
            expected = [
                kind.counts.times(count) for kind, count in zip(work.kinds, times, strict=True)
            ]
            with self._counted(work.name, expected):
                return in_turn([kind.call for kind in work.kinds], times[0])
        runs = []
        for kind, count in zip(work.kinds, times, strict=True):
            with self._counted(kind.name, [kind.counts.times(count)], coalesced=kind.coalesced):
                runs.append(self.runner.run(in_tasks(kind.call, count, work.tasks)))
        return runs

    def _steady(self, work: Work, kind: Kind, times: int, interval_ns: int) -> Run:
        with self._counted(kind.name, [kind.counts.times(times)], coalesced=kind.coalesced):
            if work.tasks == 1:
                return steadily(kind.call, times, interval_ns)
            return self.runner.run(steadily_in_tasks(kind.call, times, interval_ns, work.tasks))

    @contextlib.contextmanager
    def _counted(
        self, name: str, expected: Sequence[Counts], *, coalesced: bool = False
    ) -> Iterator[None]:
        """Require that the block counts just what is expected, in all."""
        before = read_counts(self.admin, self.target)
        yield
        counts = read_counts(self.admin, self.target).minus(before)
        if coalesced:
            commands = audited_commands(self.admin, self.target, counts.audited)
            counts = replace(counts, audited=commands)
        require_counts(counts, Counts.sum_of(expected), 1, name)


def _whole(work: Work, calls: float) -> int:
    """So many calls, or a few more or less: as many in each task, and in each some."""
    return max(10, round(calls / work.tasks)) * work.tasks
