"""Keyleash itself: `keyleash.Redis.set`, through the full guard of agent-runner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.peers.peer import PART, REDIS_PY, YES, Bed, Guarantees, Local, Peer, Tally, versions
from benchmarks.support.measure import read_counts
from benchmarks.support.variants import VALUE

import keyleash
from keyleash.operator import tokens

GUARANTEES = Guarantees(
    atomic=YES,
    race_free=YES,
    free=YES,
    audited=YES,
    enforced=PART,
    clock=YES,
    revocable=YES,
    remark="one rate and two budgets are taken; a process with another way into the server is not"
    " stopped: its Redis user must be",
)


@contextmanager
def _open(bed: Bed) -> Iterator[Local]:
    with keyleash.Redis.from_url(bed.url, token=bed.target.token) as client:
        yield Local(partial(client.set, value=VALUE))


def tally(bed: Bed) -> Tally:
    """What the guard counted."""
    counts = read_counts(bed.admin, bed.target)
    return Tally(counts.passed, counts.audited)


def revoke(bed: Bed) -> None:
    """As `keyleash token revoke --identity` does."""
    tokens.revoke(bed.admin, identity=bed.identity, actor="benchmark")


PEER = Peer(
    REDIS_PY.ours, versions("keyleash", "redis", "hiredis"), GUARANTEES, _open, tally, revoke
)
