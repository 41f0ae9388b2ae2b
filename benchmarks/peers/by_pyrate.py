"""`pyrate-limiter` for the rate; the rest by hand: five round trips.

Both of its shapes in Redis: a few numbers by GCRA, which its documentation advises for many
calls, and a log of every call in a sorted set, which is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from benchmarks.peers.work import PREFIX, RATE, Work, revoke_token, tally
from pyrate_limiter import (
    AbstractBucket,
    Duration,
    Limiter,
    Rate,
    RedisBucket,
    RedisStateStore,
    SingleBucketFactory,
    StateBucket,
)

PATIENCE_S = 1

GUARANTEES = Guarantees(
    atomic=NO,
    race_free=YES,
    free=NO,
    audited=NO,
    enforced=NO,
    clock=NO,
    revocable=PART,
    remark="a call that passed the token check writes although revoked meanwhile; rate and day are"
    " by the client's clock; a call over the rate waits up to a second before it is refused",
)


def _state(client: redis.Redis, key: str) -> AbstractBucket:
    return StateBucket([Rate(RATE, Duration.MINUTE)], store=RedisStateStore(client, key))


def _log(client: redis.Redis, key: str) -> AbstractBucket:
    return RedisBucket.init([Rate(RATE, Duration.MINUTE)], client, key)


def _peer(name: str, bucket: Callable[[redis.Redis, str], AbstractBucket]) -> Peer:
    @contextmanager
    def opened(bed: Bed) -> Iterator[Local]:
        with redis.Redis.from_url(bed.url) as client:
            own = bucket(client, f"{PREFIX}pyrate:{name}:{bed.identity}")
            # Its thread that drops old entries every 10 s would call while others are measured.
            limiter = Limiter(SingleBucketFactory(own, schedule_leak=False))
            work = Work(client, bed)

            def call(key: str) -> None:
                work.require_token()
                work.require_key(key)
                # Without waiting it would refuse whenever another thread holds the limiter.
                if not limiter.try_acquire(bed.identity, timeout=PATIENCE_S):
                    raise RefusedError("rate")
                work.take_budget()
                work.write(key)
                work.append_event(key)

            yield Local(call)

    return Peer(
        f"pyrate-limiter, {name}",
        versions("pyrate-limiter", "redis", "hiredis"),
        GUARANTEES,
        opened,
        tally,
        revoke_token,
    )


PEERS = (_peer("GCRA", _state), _peer("log", _log))
