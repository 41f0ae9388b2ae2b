"""Server CPU and counters of a run, and preparation of keys and streams."""

from __future__ import annotations

import time
from dataclasses import dataclass

import redis
from benchmarks.support.load import Generator, Load
from benchmarks.support.policy import Target, operator_of
from benchmarks.support.variants import KEY, VALUE, Counts, Variant

from keyleash.audit.entries import audit_events
from keyleash.limits import SlotKind
from keyleash.store.keyspace import Keyspace
from keyleash.store.server_check import Client
from keyleash.store.state import unpack_state

MAIN_THREAD = ("used_cpu_user_main_thread", "used_cpu_sys_main_thread")
WHOLE_PROCESS = ("used_cpu_user", "used_cpu_sys")
REQUESTS_BUDGET = "budget.requests"


class MiscountError(Exception):
    """The counts of keyleash differ from the calls, so the measurement is invalid."""


@dataclass(frozen=True, slots=True)
class CpuClock:
    """CPU time of a server: the sum of *fields* of INFO."""

    client: Client
    fields: tuple[str, str]

    @property
    def whole_process(self) -> bool:
        """Return whether background threads are included, because the server lacks finer fields."""
        return self.fields == WHOLE_PROCESS

    def used_s(self) -> float:
        """Return the CPU seconds since the server started."""
        info = self.client.info("cpu")
        return sum(float(info[field]) for field in self.fields)


def cpu_clock(client: Client) -> CpuClock:
    """Return the clock of the main thread, or of the process if the server lacks it."""
    known = client.info("cpu")
    return CpuClock(client, MAIN_THREAD if MAIN_THREAD[0] in known else WHOLE_PROCESS)


@dataclass(frozen=True, slots=True)
class Sample:
    """One variant in one round.

    Attributes:
        server_us: Server CPU time per command, µs.
        ops_per_s: Commands per second of wall time, of all connections together.
        server_busy: Share of the run in which the server used its core, 0 to 1.
        client_busy: The same of the load generator.
    """

    server_us: float
    ops_per_s: float
    server_busy: float
    client_busy: float


def take_sample(
    generator: Generator, clock: CpuClock, target: Target, variant: Variant, load: Load
) -> Sample:
    """Run *load* once and return its cost.

    Raises:
        LoadError: a reply was not the expected one.
        MiscountError: the counts differ from the expected ones.
    """
    generator.prepare(load)
    counted = read_counts(clock.client, target)
    used_s = clock.used_s()
    seen = generator.run()
    server_s = clock.used_s() - used_s
    counts = read_counts(clock.client, target).minus(counted)
    require_counts(counts, variant.counts, load.requests, variant.name)
    commands = load.requests * variant.commands
    return Sample(
        server_us=server_s / commands * 1e6,
        ops_per_s=commands / seen.wall_s,
        server_busy=server_s / seen.wall_s,
        client_busy=seen.busy,
    )


def read_counts(client: Client, target: Target) -> Counts:
    """Return the counts of the target's identity."""
    keyspace = target.guard.plan.keyspace
    identity = target.guard.identity
    state = unpack_state(client.get(keyspace.state(identity)), target.guard.layout)
    return Counts(
        passed=next(limit.used for limit in state.limits if limit.slot.name == REQUESTS_BUDGET),
        audited=_appended(client, keyspace.audit(identity)),
        denied=sum(denial.repeats for denial in operator_of(client).audit.denials(identity)),
    )


def require_counts(counted: Counts, of_one: Counts, calls: int, name: str) -> None:
    """Raise MiscountError unless *calls* calls, of which one counts *of_one*, were counted."""
    if counted != of_one.times(calls):
        raise MiscountError(f"`{name}`: {counted} where {of_one.times(calls)} was expected")


def audited_commands(client: Client, target: Target, events: int) -> int:
    """Return the number of commands in the newest *events* audit events of the identity."""
    if events == 0:
        return 0  # COUNT 0 is all of them
    identity = target.guard.identity
    # As bytes, so that redis-py does not make a dict of the fields, whose names repeat.
    entries = client.execute_command(
        b"XREVRANGE", Keyspace().audit(identity), "+", "-", "COUNT", events
    )
    read = (
        (entry_id, list(zip(words[::2], words[1::2], strict=True))) for entry_id, words in entries
    )
    return sum(
        len(audit_events(identity, entry_id, pairs))
        for entry_id, pairs in read
        if pairs[0][0] != b"of"
    )


def _appended(client: Client, stream: str) -> int:
    """Return the number of entries ever added to a stream."""
    try:
        return int(client.xinfo_stream(stream)["entries-added"])
    except redis.ResponseError:
        return 0  # there is no such stream yet


_COPY_NEWEST = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][2]
for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', unpack(newest)) end
"""

_AT_ONCE = 10_000


def fill_audit(admin: redis.Redis, target: Target) -> None:
    """Fill the audit stream up to its `retain` with copies of its newest event.

    Trimming is part of the cost of an event. Calls would be slower, and batches exceed the rate.
    """
    guard = target.guard
    retain = guard.plan.identity.audit.retain
    if retain is not None:
        fill_stream(admin, Keyspace().audit(guard.identity), retain)


def fill_stream(admin: redis.Redis, stream: str, length: int) -> None:
    """Fill *stream* with copies of its newest event."""
    while (missing := length - admin.xlen(stream)) > 0:
        # Under callgrind a server is slow, and the client's timeout is five seconds.
        admin.eval(_COPY_NEWEST, 1, stream, str(min(missing, _AT_ONCE)))


def fill_keys(admin: redis.Redis, jobs: int) -> None:
    """Write the keys of the first *jobs* jobs, so that reads find them."""
    with admin.pipeline(transaction=False) as pipe:
        for job in range(jobs):
            pipe.set(KEY.format(job=f"{job:012d}"), VALUE)
        pipe.execute()


def let_rates_refill(admin: redis.Redis, target: Target, passing: int) -> None:
    """Wait until the rates allow the given number of commands, or are fully recovered.

    A rate is 100,000 a second at most, with a burst of a million; batches are faster.
    """
    guard = target.guard
    state = unpack_state(admin.get(Keyspace().state(guard.identity)), guard.layout)  # type: ignore[arg-type]
    seconds, microseconds = admin.time()
    now_us = seconds * 1_000_000 + microseconds
    for limit, plan in zip(state.limits, guard.plan.limits, strict=True):
        if limit.slot.kind is SlotKind.GCRA:
            free_us = plan.tolerance_us - max(0, limit.tat_us - now_us)
            needed_us = min(passing * limit.slot.interval_us, plan.tolerance_us)
            time.sleep(max(0, needed_us - free_us) / 1e6)
