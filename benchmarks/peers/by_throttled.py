"""`throttled-py` for the rate, by GCRA as keyleash's own; the rest by hand: five round trips."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from benchmarks.peers.peer import (
    NO,
    PART,
    YES,
    Bed,
    Guarantees,
    Local,
    Peer,
    RefusedError,
    versions,
)
from benchmarks.peers.work import RATE, Work, revoke_token, tally
from throttled import RateLimiterType, RedisStore, Throttled, per_min

GUARANTEES = Guarantees(
    atomic=NO,
    race_free=YES,
    free=NO,
    audited=NO,
    enforced=NO,
    clock=PART,
    revocable=PART,
    remark="a call that passed the token check writes although revoked meanwhile; the rate is by"
    " the server's clock, the day by the client's",
)


@contextmanager
def _open(bed: Bed) -> Iterator[Local]:
    throttled = Throttled(
        key=bed.identity,
        using=RateLimiterType.GCRA.value,
        quota=per_min(RATE, burst=RATE),
        store=RedisStore(server=bed.url),
    )
    with redis.Redis.from_url(bed.url) as client:
        work = Work(client, bed)

        def call(key: str) -> None:
            work.require_token()
            work.require_key(key)
            if throttled.limit().limited:
                raise RefusedError("rate")
            work.take_budget()
            work.write(key)
            work.append_event(key)

        yield Local(call)


PEER = Peer(
    "throttled-py, GCRA",
    versions("throttled-py", "redis", "hiredis"),
    GUARANTEES,
    _open,
    tally,
    revoke_token,
)
