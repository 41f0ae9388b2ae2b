"""`limits` for the rate, by each of its three strategies; the rest by hand: five round trips.

As its quickstart shows: one storage for all calls, whose scripts redis-py sends by their digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis
from benchmarks.peers.callers import Local, RefusedError
from benchmarks.peers.guarantees import NO, PART, YES, Guarantees
from benchmarks.peers.peer import Bed, Peer, versions
from benchmarks.peers.work import PREFIX, RATE, Work, revoke_token, tally
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

MADE_OF = versions("limits", "redis", "hiredis")
STEPWISE = "a call that passed the token check writes although revoked meanwhile"


def rate_by(
    strategy: Callable[[RedisStorage], RateLimiter], bed: Bed, peer: str
) -> Callable[[], None]:
    """A function that takes one write from the rate, or raises; each peer has its own counters."""
    limiter = strategy(RedisStorage(bed.url, key_prefix=f"{PREFIX}{peer}"))
    writes = RateLimitItemPerMinute(RATE)
    identity = bed.identity

    def take() -> None:
        if not limiter.hit(writes, identity):
            raise RefusedError("rate")

    return take


def _peer(
    name: str, strategy: Callable[[RedisStorage], RateLimiter], guarantees: Guarantees
) -> Peer:
    @contextmanager
    def opened(bed: Bed) -> Iterator[Local]:
        take_rate = rate_by(strategy, bed, name)
        with redis.Redis.from_url(bed.url) as client:
            work = Work(client, bed)

            def call(key: str) -> None:
                work.require_token()
                work.require_key(key)
                take_rate()
                work.take_budget()
                work.write(key)
                work.append_event(key)

            yield Local(call)

    return Peer(name, MADE_OF, guarantees, opened, tally, revoke_token)


PEERS = (
    _peer(
        "limits, fixed window",
        FixedWindowRateLimiter,
        Guarantees(
            atomic=NO,
            race_free=YES,
            free=NO,
            audited=NO,
            enforced=NO,
            clock=PART,
            revocable=PART,
            remark=f"{STEPWISE}; a window lets twice the rate pass around its end;"
            " the day is the client's",
        ),
    ),
    _peer(
        "limits, moving window",
        MovingWindowRateLimiter,
        Guarantees(
            atomic=NO,
            race_free=YES,
            free=NO,
            audited=NO,
            enforced=NO,
            clock=NO,
            revocable=PART,
            remark=f"{STEPWISE}; rate and day are by the client's clock; what the budget refuses"
            " was taken from the rate",
        ),
    ),
    _peer(
        "limits, sliding window",
        SlidingWindowCounterRateLimiter,
        Guarantees(
            atomic=NO,
            race_free=YES,
            free=NO,
            audited=NO,
            enforced=NO,
            clock=PART,
            revocable=PART,
            remark=f"{STEPWISE}; the rate is estimated from two windows; the day is the client's;"
            " what the budget refuses was taken from the rate",
        ),
    ),
)
