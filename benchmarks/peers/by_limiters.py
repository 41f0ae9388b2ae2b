"""Limiter libraries for the rate, `pycasbin` for a policy; the rest by hand: five round trips.

- `limits` with each of its strategies, as its quickstart shows: one storage for all calls, whose
  scripts redis-py sends by digest. Once more with clients that use a single connection, which
  makes redis-py fastest.
- `throttled-py` with GCRA, the algorithm of keyleash.
- `pyrate-limiter` with GCRA, which its documentation recommends for many calls, and with a log of
  every call in a sorted set, which is exact.
- `pycasbin` for the policy, with `limits` for the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import casbin
import redis
from benchmarks.peers.peer import Bed, Guarantees, Local, Peer, RefusedError, versions
from benchmarks.peers.work import PREFIX, RATE, Work, revoke_token, tally
from casbin.model import FastModel
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)
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
from throttled import RateLimiterType, RedisStore, Throttled, per_min

Allows = Callable[[], object]
"""Charges one write to the rate; the result is true if it is allowed."""

STEPWISE = "a call that passed the token check writes although revoked in the meantime"
FIXED = Guarantees.of(
    "no yes no no no part part",
    f"{STEPWISE}; a window permits twice the rate around its end; the day is the client's",
)


def _peer(
    name: str,
    rate: Callable[[Bed, redis.Redis], Allows],
    library: str,
    guarantees: Guarantees,
    *,
    single: bool = False,
) -> Peer:
    """A peer that makes a call in five round trips.

    Args:
        rate: Returns the limiter of a bed's identity.
        single: Whether the client uses a single connection.
    """

    @contextmanager
    def opened(bed: Bed) -> Iterator[Local]:
        with redis.Redis.from_url(bed.url, single_connection_client=single) as client:
            work, allows = Work(client, bed), rate(bed, client)
            require_key = _casbin(bed) if library == "pycasbin" else work.require_key

            def call(key: str) -> None:
                work.require_token()
                require_key(key)
                if not allows():
                    raise RefusedError("rate")
                work.take_budget()
                work.write(key)
                work.append_event(key)

            yield Local(call)

    libraries = ("pycasbin", "limits") if library == "pycasbin" else (library,)
    made_of = versions(*libraries, "redis", "hiredis")
    return Peer(name, made_of, guarantees, opened, tally, revoke_token)


def _limits(
    strategy: Callable[[RedisStorage], RateLimiter], name: str, **options: bool
) -> Callable[[Bed, redis.Redis], Allows]:
    """Return limiters of `limits`; each peer has its own counters.

    Args:
        options: Options of redis-py's client.
    """

    def rate(bed: Bed, _: redis.Redis) -> Allows:
        limiter = strategy(RedisStorage(bed.url, key_prefix=f"{PREFIX}{name}", **options))
        return partial(limiter.hit, RateLimitItemPerMinute(RATE), bed.identity)

    return rate


def _throttled(bed: Bed, _: redis.Redis) -> Allows:
    throttled = Throttled(
        key=bed.identity,
        using=RateLimiterType.GCRA.value,
        quota=per_min(RATE, burst=RATE),
        store=RedisStore(server=bed.url),
    )
    return lambda: not throttled.limit().limited


PATIENCE_S = 1
"""Without waiting, `pyrate-limiter` denies whenever another thread holds the limiter."""


def _pyrate(
    bucket: Callable[[redis.Redis, str], AbstractBucket], name: str
) -> Callable[[Bed, redis.Redis], Allows]:
    def rate(bed: Bed, client: redis.Redis) -> Allows:
        own = bucket(client, f"{PREFIX}pyrate:{name}:{bed.identity}")
        # Its thread that drops old entries every 10 s would call while others are measured.
        limiter = Limiter(SingleBucketFactory(own, schedule_leak=False))
        return partial(limiter.try_acquire, bed.identity, timeout=PATIENCE_S)

    return rate


def _state(client: redis.Redis, key: str) -> AbstractBucket:
    return StateBucket([Rate(RATE, Duration.MINUTE)], store=RedisStateStore(client, key))


def _log(client: redis.Redis, key: str) -> AbstractBucket:
    return RedisBucket.init([Rate(RATE, Duration.MINUTE)], client, key)


MODEL = """
[request_definition]
r = sub, obj, act

[policy_definition]
p = sub, obj, act, eft

[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))

[matchers]
m = r.sub == p.sub && r.act == p.act && regexMatch(r.obj, p.obj)
"""
"""Grants and deny rules; casbin's keyMatch functions know segments by `/` only."""

RULES = (
    ("agents:jobs:[^:]+:state$", "allow"),
    ("agents:jobs:[^:]+:result$", "allow"),
    ("agents:jobs:[^:]+:lock$", "deny"),
)
"""What agent-runner may write; an index would skip rules of other subjects."""

BY_SUBJECT_AND_ACTION = (0, 2)


def _casbin(bed: Bed) -> Callable[[str], None]:
    """Return a check of keys by the enforcer that casbin documents as fast, with indexed rules."""
    model = FastModel(BY_SUBJECT_AND_ACTION)
    model.load_model_from_text(MODEL)
    enforcer = casbin.FastEnforcer(model, cache_key_order=BY_SUBJECT_AND_ACTION)
    for pattern, effect in RULES:
        enforcer.add_policy(bed.identity, pattern, "write", effect)

    def require_key(key: str) -> None:
        if not enforcer.enforce(bed.identity, key, "write"):
            raise RefusedError("key")

    return require_key


def _with_limits(
    name: str,
    strategy: Callable[[RedisStorage], RateLimiter],
    guarantees: Guarantees = FIXED,
    *,
    single: bool = False,
) -> Peer:
    rate = _limits(strategy, name, single_connection_client=single)
    return _peer(name, rate, "limits", guarantees, single=single)


PYRATE = Guarantees.of(
    "no yes no no no no part",
    f"{STEPWISE}; rate and day are by the client's clock; a call over the rate waits up to a second"
    " before it is denied",
)
CASBIN = "pycasbin + limits, fixed"

FIVE_TRIPS = _with_limits("limits, fixed window", FixedWindowRateLimiter)
"""The peer of the bar: five round trips in their cheapest form."""

PEERS = (
    FIVE_TRIPS,
    _with_limits("limits, fixed, one connection", FixedWindowRateLimiter, single=True),
    _with_limits(
        "limits, moving window",
        MovingWindowRateLimiter,
        Guarantees.of(
            "no yes no no no no part",
            f"{STEPWISE}; both the rate and the day are by the client's clock",
        ),
    ),
    _with_limits(
        "limits, sliding window",
        SlidingWindowCounterRateLimiter,
        Guarantees.of(
            "no yes no no no part part",
            f"{STEPWISE}; the rate is estimated from two windows; the day is the client's",
        ),
    ),
    _peer(
        "throttled-py, GCRA",
        _throttled,
        "throttled-py",
        Guarantees.of(
            "no yes no no no part part",
            f"{STEPWISE}; the rate is by the server's clock, the day by the client's",
        ),
    ),
    _peer("pyrate-limiter, GCRA", _pyrate(_state, "GCRA"), "pyrate-limiter", PYRATE),
    _peer("pyrate-limiter, log", _pyrate(_log, "log"), "pyrate-limiter", PYRATE),
    _peer(
        CASBIN,
        _limits(FixedWindowRateLimiter, "casbin"),
        "pycasbin",
        Guarantees.of(
            "no yes no no no part part",
            "the policy is in the client's memory until it loads another; otherwise as `limits`",
        ),
    ),
)
