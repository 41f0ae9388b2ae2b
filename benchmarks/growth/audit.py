"""Events in the caller's audit stream: their cost per call, and their memory."""

from __future__ import annotations

import json
from collections.abc import Callable

import redis
from benchmarks.growth import loading
from benchmarks.growth.curves import Growth
from benchmarks.growth.loading import document, footprint, guarded_set, identity, load
from benchmarks.growth.sampling import Case, Yard, calls_of, curves_of, sample

from keyleash.store.keyspace import Keyspace

GROWS = "events in the audit stream"
CHUNK = 50_000
KEYS = ("agents:jobs:{job_id}:state",)

_FILL = """
local fields, id = cjson.decode(ARGV[1]), string.format
for ms = ARGV[2], ARGV[3] do redis.call('XADD', KEYS[1], id('%.0f-0', ms), unpack(fields)) end
"""
"""Appends copies of an event, a millisecond apart."""


def measure(yard: Yard) -> list[Growth]:
    """Use an identity per size with a full stream: `retain` is the size."""
    sizes = yard.sizes((0, 1_000, 100_000, 1_000_000), (0, 1_000, 20_000))
    policy = document(identity(f"agent-{size}", KEYS, retain=max(1, size)) for size in sizes)
    variant = guarded_set("guarded SET")
    taken = {}
    with yard.server() as bench:
        cases = []
        for size, target in zip(sizes, load(bench, policy).targets, strict=True):
            stream = Keyspace().audit(target.guard.identity)
            case = Case(
                variant.name,
                size,
                bench,
                variant,
                (target,),
                yard.plan.requests,
                _trimming(bench.admin, stream, size),
            )
            sample(case, calls_of(case))
            if size:
                taken[size] = _fill(bench.admin, stream, size)
            cases.append(case)
        curves, noisy = curves_of(cases)
    return [
        Growth(
            "audit",
            GROWS,
            "µs of server CPU per SET",
            curves,
            remarks=("0: emptied before every sample, `retain: 1`",),
            noisy=noisy,
        ),
        loading.growth_of("memory, audit", GROWS, {"stream": taken}),
    ]


def _trimming(admin: redis.Redis, stream: str, size: int) -> Callable[[], object]:
    return lambda: admin.xtrim(stream, maxlen=size, approximate=False)


def _fill(admin: redis.Redis, stream: str, size: int) -> int:
    """Fill the stream with copies of its newest event; return their bytes."""
    ((_, fields),) = admin.execute_command("XREVRANGE", stream, "+", "-", "COUNT", 1)
    event = json.dumps([word.decode() for pair in fields.items() for word in pair])
    admin.delete(stream)
    before = footprint(admin)
    script = admin.register_script(_FILL)
    seconds, _ = admin.time()
    begin_ms = seconds * 1_000 - size
    for first in range(0, size, CHUNK):
        last = min(first + CHUNK, size) - 1
        script(keys=[stream], args=[event, begin_ms + first, begin_ms + last])
    return footprint(admin).minus(before).data
