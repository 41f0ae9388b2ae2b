"""The floor: redis-py's own `set`, with nothing checked, counted or recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import redis
from benchmarks.peers.peer import NO, REDIS_PY, Bed, Guarantees, Local, Peer, Tally, versions
from benchmarks.support.variants import VALUE


@contextmanager
def _open(bed: Bed) -> Iterator[Local]:
    with redis.Redis.from_url(bed.url) as client:
        yield Local(partial(client.set, value=VALUE))


PEER = Peer(
    REDIS_PY.floor,
    versions("redis", "hiredis"),
    Guarantees(NO, NO, NO, NO, NO, NO, NO, "nothing is checked, counted or recorded"),
    _open,
    lambda _: Tally(),
    revoke=None,
)
