"""What must be so before a run: keys to read, a full audit stream, rates that let all pass."""

from __future__ import annotations

import time

import redis
from benchmarks.support.policy import Target
from benchmarks.support.variants import KEY, VALUE

from keyleash.limits import SlotKind
from keyleash.store.keyspace import Keyspace
from keyleash.store.state import unpack_state

_COPY_NEWEST = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][2]
for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', unpack(newest)) end
"""

_AT_ONCE = 10_000


def fill_audit(admin: redis.Redis, target: Target) -> None:
    """Fill the audit stream up to its `retain` with copies of its newest event.

    Trimming is part of what an event costs. By calls it would take longer, and in batches it
    would take more of the rate than there is.
    """
    guard = target.guard
    retain = guard.plan.identity.audit.retain
    if retain is not None:
        fill_stream(admin, Keyspace().audit(guard.identity), retain)


def fill_stream(admin: redis.Redis, stream: str, length: int) -> None:
    """Fill *stream*, which has an event, with copies of its newest."""
    while (missing := length - admin.xlen(stream)) > 0:
        # A server that is watched by callgrind is slow, and a client waits five seconds.
        admin.eval(_COPY_NEWEST, 1, stream, str(min(missing, _AT_ONCE)))


def fill_keys(admin: redis.Redis, jobs: int) -> None:
    """Give the first *jobs* jobs their key, so that whoever reads finds it."""
    with admin.pipeline(transaction=False) as pipe:
        for job in range(jobs):
            pipe.set(KEY.format(job=f"{job:012d}"), VALUE)
        pipe.execute()


def let_rates_refill(admin: redis.Redis, target: Target, passing: int) -> None:
    """Wait until rates let so many commands pass, or are at rest.

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
