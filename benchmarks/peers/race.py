"""A race against the daily budget: eight workers, and room for a hundred calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.peers.pace import keys_for
from benchmarks.peers.peer import Bed, Peer
from benchmarks.peers.work import forget_limits, prepare
from benchmarks.support.spread import Spread, spread_of

WORKERS = 8
BUDGET = 100
CALLS = 25
"""Of each worker: twice the budget in all."""


@dataclass(frozen=True, slots=True)
class Race:
    """What came of several races.

    Attributes:
        overrun: Keys written beyond the budget; below zero if calls were refused that had room.
        charged: Calls in the budget's counter beyond those that wrote; None if nothing counts.
    """

    overrun: Spread
    charged: Spread | None


def raced(peer: Peer, beds: Sequence[Bed]) -> Race:
    """Race once on every bed, each with an identity that has not called before."""
    overruns, charges = [], []
    for bed in beds:
        prepare(bed)
        keys = keys_for(WORKERS * CALLS)
        bed.admin.unlink(*keys)
        with peer.open(bed) as caller:
            caller.race([keys[worker::WORKERS] for worker in range(WORKERS)])
        written = bed.admin.exists(*keys)
        overruns.append(written - BUDGET)
        if (charged := peer.tally(bed).charged) is not None:
            charges.append(charged - written)
        forget_limits(bed)
    return Race(spread_of(overruns), spread_of(charges) if charges else None)
