"""Redis transactions: one MULTI; a check, then MULTI; the same with WATCH.

The rate is a counter per minute. WATCH makes the check correct, but needs another round trip, and
a retry whenever another call of the identity was faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from benchmarks.peers.peer import Bed, Guarantees, Local, Peer, RefusedError, versions
from benchmarks.peers.work import COUNTER_LIFE, PREFIX, RATE, Work, revoke_token, tally
from benchmarks.support.variants import VALUE

MINUTE_S = 60
Call = Callable[[str], None]


def rate_key(work: Work) -> str:
    """Return the counter of this minute, by the client's clock."""
    return f"{PREFIX}rate:{work.identity}:{int(time.time()) // MINUTE_S}"


def queue_call(pipe: Any, work: Work, key: str) -> None:
    """Queue all writes of a call."""
    rate, budget = rate_key(work), work.budget_key()
    pipe.incr(rate)
    pipe.expire(rate, 2 * MINUTE_S)
    pipe.incr(budget)
    pipe.expire(budget, COUNTER_LIFE)
    pipe.set(key, VALUE)
    work.append_to(pipe, key)


def require_room(work: Work, record: object, rate: object, used: object) -> None:
    """Raise RefusedError unless token, rate and budget allow another call."""
    work.require_record(record)
    if int(rate or 0) >= RATE:  # type: ignore[call-overload]
        raise RefusedError("rate")
    if int(used or 0) >= work.budget:  # type: ignore[call-overload]
        raise RefusedError("budget")


def one_multi(work: Work) -> Call:
    """Check and write in one transaction; results are known at its end."""

    def call(key: str) -> None:
        work.require_key(key)
        with work.client.pipeline(transaction=True) as pipe:
            pipe.get(work.token_key())
            queue_call(pipe, work, key)
            record, rate, _, used, *_ = pipe.execute()
        require_room(work, record, rate - 1, used - 1)

    return call


def check_then_multi(work: Work) -> Call:
    """Read with MGET, decide, write in one transaction."""

    def call(key: str) -> None:
        work.require_key(key)
        found = work.client.mget(work.token_key(), rate_key(work), work.budget_key())
        require_room(work, *found)
        with work.client.pipeline(transaction=True) as pipe:
            queue_call(pipe, work, key)
            pipe.execute()

    return call


def watch_then_multi(work: Work) -> Call:
    """Read with WATCH, so that EXEC does nothing if a value changed."""

    def call(key: str) -> None:
        work.require_key(key)
        with work.client.pipeline(transaction=True) as pipe:
            while True:
                read = (work.token_key(), rate_key(work), work.budget_key())
                try:
                    pipe.watch(*read)
                    require_room(work, *pipe.mget(*read))
                    pipe.multi()
                    queue_call(pipe, work, key)
                    pipe.execute()
                except redis.WatchError:
                    continue
                return

    return call


def _peer(name: str, calls: Callable[[Work], Call], guarantees: Guarantees) -> Peer:
    @contextmanager
    def opened(bed: Bed) -> Iterator[Local]:
        with redis.Redis.from_url(bed.url) as client:
            yield Local(calls(Work(client, bed)))

    return Peer(name, versions("redis", "hiredis"), guarantees, opened, tally, revoke_token)


PEERS = (
    _peer(
        "one MULTI",
        one_multi,
        Guarantees.of("part no no yes no no no", "it writes before it knows that it was denied"),
    ),
    _peer(
        "check, then MULTI",
        check_then_multi,
        Guarantees.of(
            "part no yes yes no no part",
            "several calls can pass the check before the first MULTI; the token may be revoked"
            " after the check",
        ),
    ),
    _peer(
        "WATCH, check, MULTI",
        watch_then_multi,
        Guarantees.of(
            "yes yes yes yes no no yes",
            "of concurrent calls of an identity one succeeds and the others retry; rate and day"
            " are by the client's clock",
        ),
    ),
)
