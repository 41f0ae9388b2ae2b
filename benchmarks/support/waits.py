"""Which part others had of the cores of client and server: the kernel counts it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
