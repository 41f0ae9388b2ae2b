"""`limits` for the rate, by each of its three strategies; the rest by hand: five round trips.

As its quickstart shows: one storage for all calls, whose scripts redis-py sends by their digest.
Once more with clients that keep to one connection, which is what makes redis-py fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

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
from benchmarks.peers.work import PREFIX, RATE, Work, revoke_token, tally
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

STEPWISE = "a call that passed the token check writes although revoked meanwhile"
FIXED = Guarantees(
    atomic=NO,
    race_free=YES,
    free=NO,
    audited=NO,
    enforced=NO,
    clock=PART,
    revocable=PART,
    remark=f"{STEPWISE}; a window lets twice the rate pass around its end; the day is the client's",
)
MOVING = replace(
    FIXED, clock=NO, remark=f"{STEPWISE}; both the rate and the day are by the client's clock"
)
SLIDING = replace(
    FIXED, remark=f"{STEPWISE}; the rate is an estimate from two windows; the day is the client's"
)


def rate_by(
    strategy: Callable[[RedisStorage], RateLimiter], bed: Bed, peer: str, **options: bool
) -> Callable[[], None]:
    """A function that takes one write from the rate, or raises; each peer has its own counters.

    Args:
        options: Of redis-py's client.
    """
    limiter = strategy(RedisStorage(bed.url, key_prefix=f"{PREFIX}{peer}", **options))
    writes = RateLimitItemPerMinute(RATE)
    identity = bed.identity

    def take() -> None:
        if not limiter.hit(writes, identity):
            raise RefusedError("rate")

    return take


def _peer(
    name: str,
    strategy: Callable[[RedisStorage], RateLimiter],
    guarantees: Guarantees,
    *,
    single: bool = False,
) -> Peer:
    @contextmanager
    def opened(bed: Bed) -> Iterator[Local]:
        take_rate = rate_by(strategy, bed, name, single_connection_client=single)
        with redis.Redis.from_url(bed.url, single_connection_client=single) as client:
            work = Work(client, bed)

            def call(key: str) -> None:
                work.require_token()
                work.require_key(key)
                take_rate()
                work.take_budget()
                work.write(key)
                work.append_event(key)

            yield Local(call)

    made_of = versions("limits", "redis", "hiredis")
    return Peer(name, made_of, guarantees, opened, tally, revoke_token)


PEERS = (
    _peer("limits, fixed window", FixedWindowRateLimiter, FIXED),
    _peer("limits, fixed, one connection", FixedWindowRateLimiter, FIXED, single=True),
    _peer("limits, moving window", MovingWindowRateLimiter, MOVING),
    _peer("limits, sliding window", SlidingWindowCounterRateLimiter, SLIDING),
)
