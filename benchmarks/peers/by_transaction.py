"""Redis's own transactions and nothing else: one MULTI; a check, then MULTI; the same with WATCH.

The rate is a counter by the minute. WATCH is what makes the second correct, at the price of a
round trip more and of trying again whenever another call of the identity was faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
from benchmarks.peers.work import KEPT, PREFIX, RATE, Work, revoke_token, tally
from benchmarks.support.variants import VALUE

MINUTE_S = 60
Call = Callable[[str], None]


def rate_key(work: Work) -> str:
    """The counter of this minute, by the client's clock."""
    return f"{PREFIX}rate:{work.identity}:{int(time.time()) // MINUTE_S}"


def queue_call(pipe: Any, work: Work, key: str) -> None:
    """All that a call writes."""
    rate, budget = rate_key(work), work.budget_key()
    pipe.incr(rate)
    pipe.expire(rate, 2 * MINUTE_S)
    pipe.incr(budget)
    pipe.expire(budget, KEPT)
    pipe.set(key, VALUE)
    work.append_to(pipe, key)


def require_room(work: Work, record: object, rate: object, used: object) -> None:
    """Raise RefusedError unless token, rate and budget, as read, let one more call pass."""
    work.require_record(record)
    if int(rate or 0) >= RATE:  # type: ignore[call-overload]
        raise RefusedError("rate")
    if int(used or 0) >= work.budget:  # type: ignore[call-overload]
        raise RefusedError("budget")


def one_multi(work: Work) -> Call:
    """Everything in one transaction; what it found is known when it is done."""

    def call(key: str) -> None:
        work.require_key(key)
        with work.client.pipeline(transaction=True) as pipe:
            pipe.get(work.token_key())
            queue_call(pipe, work, key)
            record, rate, _, used, *_ = pipe.execute()
        require_room(work, record, rate - 1, used - 1)

    return call


def check_then_multi(work: Work) -> Call:
    """One MGET, a decision here, one transaction."""

    def call(key: str) -> None:
        work.require_key(key)
        found = work.client.mget(work.token_key(), rate_key(work), work.budget_key())
        require_room(work, *found)
        with work.client.pipeline(transaction=True) as pipe:
            queue_call(pipe, work, key)
            pipe.execute()

    return call


def watch_then_multi(work: Work) -> Call:
    """The same, but what was read is watched: EXEC does nothing if it changed since."""

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
        Guarantees(
            atomic=PART,
            race_free=NO,
            free=NO,
            audited=YES,
            enforced=NO,
            clock=NO,
            revocable=NO,
            remark="it writes, then learns that it was not allowed to",
        ),
    ),
    _peer(
        "check, then MULTI",
        check_then_multi,
        Guarantees(
            atomic=PART,
            race_free=NO,
            free=YES,
            audited=YES,
            enforced=NO,
            clock=NO,
            revocable=PART,
            remark="whoever checks before another's MULTI passes too; what was checked may be"
            " revoked by then",
        ),
    ),
    _peer(
        "WATCH, check, MULTI",
        watch_then_multi,
        Guarantees(
            atomic=YES,
            race_free=YES,
            free=YES,
            audited=YES,
            enforced=NO,
            clock=NO,
            revocable=YES,
            remark="of concurrent calls of an identity one succeeds and the others begin anew;"
            " rate and day are by the client's clock",
        ),
    ),
)
