"""Calls made in this process, through one client of redis-py."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

from keyleash import LeashError


class RefusedError(Exception):
    """A check made by hand said no."""


@dataclass(frozen=True, slots=True)
class Local:
    """A `Caller` made of one function, which sets one key or raises."""

    call: Callable[[str], object]

    def run(self, keys: Sequence[str]) -> list[int]:
        """One call after the other."""
        call, clock = self.call, time.perf_counter_ns
        taken = []
        for key in keys:
            begun = clock()
            call(key)
            taken.append(clock() - begun)
        return taken

    def race(self, shares: Sequence[Sequence[str]]) -> None:
        """A thread for each share; all begin together."""
        together = Barrier(len(shares))

        def work(keys: Sequence[str]) -> None:
            together.wait()
            for key in keys:
                try:
                    self.call(key)
                except (RefusedError, LeashError):
                    continue

        with ThreadPoolExecutor(len(shares)) as threads:
            for done in [threads.submit(work, keys) for keys in shares]:
                done.result()
