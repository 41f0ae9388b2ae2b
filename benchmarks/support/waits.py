"""How long processes waited for their core because others had it: the kernel counts it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Waited:
    """Filled in at the end of the block.

    Attributes:
        share: Time that this process or the server could have run and did not, by wall time;
            None if the kernel does not say.
    """

    share: float | None = None


@contextlib.contextmanager
def waiting_for_cores(server_pid: int) -> Iterator[Waited]:
    """Count while the block runs, for the main threads of this process and the server."""
    waited = Waited()
    begun_ns, begun_s = _waited_ns(server_pid), time.perf_counter()
    yield waited
    wall_s = time.perf_counter() - begun_s
    ended_ns = _waited_ns(server_pid)
    if begun_ns is not None and ended_ns is not None:
        waited.share = (ended_ns - begun_ns) / 1e9 / wall_s


def _waited_ns(server_pid: int) -> int | None:
    try:
        return sum(
            # Time on the core, time waiting for it, number of slices; nanoseconds.
            int(Path(f"/proc/{process}/schedstat").read_text(encoding="ascii").split()[1])
            for process in ("self", server_pid)
        )
    except OSError:
        return None
