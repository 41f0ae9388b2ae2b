"""Timed runs of one peer, checked against the counts of calls, keys, charges and events."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import redis
from benchmarks.peers.peer import Bed, Caller, Peer
from benchmarks.support.measure import CpuClock, MiscountError
from benchmarks.support.variants import KEY

READS = "total_reads_processed"
"""Requests read by the server, including INFO."""


@dataclass(frozen=True, slots=True)
class Pace:
    """A run of a peer.

    Attributes:
        p50_us, p99_us: Percentiles of the time per call.
        per_s: Calls per second, in sequence.
    """

    p50_us: float
    p99_us: float
    per_s: float


def keys_for(calls: int, first: int = 0) -> list[str]:
    """Return different keys that agent-runner may write."""
    return [KEY.format(job=f"{job:012d}") for job in range(first, first + calls)]


def take_turns(bed: Bed, callers: Sequence[tuple[Peer, Caller]], calls: int) -> dict[str, Pace]:
    """Run each peer; return the results by name.

    Raises:
        MiscountError: the counts differ.
    """
    return {peer.name: pace_of(checked_run(bed, peer, caller, calls)) for peer, caller in callers}


def checked_run(bed: Bed, peer: Peer, caller: Caller, calls: int) -> list[int]:
    """Make calls, and require as many keys, charges and events.

    Raises:
        MiscountError: the counts differ.
    """
    keys = keys_for(calls)
    bed.admin.unlink(*keys)
    before = peer.tally(bed)
    taken = caller.run(keys)
    after = peer.tally(bed)
    counted = {"calls": len(taken), "keys": bed.admin.exists(*keys)}
    if after.charged is not None and before.charged is not None:
        counted["charged"] = after.charged - before.charged
    if after.events is not None and before.events is not None:
        counted["events"] = after.events - before.events
    if set(counted.values()) != {calls}:
        raise MiscountError(f"{calls} calls of `{peer.name}` counted as {counted}")
    return taken


def pace_of(taken: Sequence[int]) -> Pace:
    """Summarize the times of a run, ns."""
    hundredths = statistics.quantiles(taken, n=100, method="inclusive")
    return Pace(hundredths[49] / 1e3, hundredths[98] / 1e3, len(taken) / sum(taken) * 1e9)


def busy_share(clock: CpuClock, caller: Caller, calls: int) -> float:
    """Return the share of the core that this process and the server used, 0 to 1.

    One of them always runs, so other processes used the rest.
    """
    keys = keys_for(calls)
    used_s, own_s, begun_s = clock.used_s(), time.process_time(), time.perf_counter()
    caller.run(keys)
    wall_s = time.perf_counter() - begun_s
    own_s = time.process_time() - own_s
    return (own_s + clock.used_s() - used_s) / wall_s


def round_trips(admin: redis.Redis, caller: Caller, calls: int) -> float:
    """Return the requests per call, as counted by the server."""
    keys = keys_for(calls)
    before = int(admin.info("stats")[READS])
    caller.run(keys)
    return (int(admin.info("stats")[READS]) - before - 1) / calls
