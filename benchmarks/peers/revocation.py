"""A token is revoked in the middle of a call: does the call still write?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.peers.gate import gate_to
from benchmarks.peers.pace import keys_for
from benchmarks.peers.peer import Bed, Peer
from benchmarks.peers.work import store_token
from benchmarks.support.measure import MiscountError

from keyleash.operator.tokens import issue_token

BEFORE, KEY = keys_for(2)


class NotRevokedError(MiscountError):
    """A call was over before the moment for which the revoke was planned."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """The moments of a call, one before each of its requests, at which its token was revoked.

    Attributes:
        moments: How many there are.
        written: In how many of them the key was written after the revoke.
    """

    moments: int
    written: int


def revoked_in_between(peer: Peer, bed: Bed, trips: int) -> Revocation | None:
    """Revoke before each request of a call, with a token and a connection for each; None if none.

    Raises:
        NotRevokedError: the call made fewer requests than *trips*.
    """
    if peer.revoke is None:
        return None
    written = [_wrote(peer, bed, peer.revoke, number) for number in range(trips)]
    return Revocation(trips, sum(written))


def _wrote(peer: Peer, bed: Bed, revoke: Callable[[Bed], object], number: int) -> bool:
    """Whether a call writes whose token is revoked when *number* of its requests were made."""
    issued = issue_token(bed.admin, bed.identity, actor="benchmark")
    port = bed.admin.connection_pool.connection_kwargs["port"]
    with gate_to(port) as gate:
        own = replace(
            bed,
            url=f"redis://127.0.0.1:{gate.port}",
            target=replace(bed.target, token=issued.token),
        )
        store_token(own)
        bed.admin.unlink(BEFORE, KEY)
        with peer.open(own) as caller:
            # The first call connects and loads scripts.
            caller.run([BEFORE])
            found: list[object] = []
            gate.before(number, partial(_revoke, own, revoke, found))
            caller.race([[KEY]])
    if not found:
        raise NotRevokedError(f"`{peer.name}` made fewer than {number + 1} requests")
    return found == [0] and bool(bed.admin.exists(KEY))


def _revoke(bed: Bed, revoke: Callable[[Bed], object], found: list[object]) -> None:
    """Revoke, and add to *found* whether the key was written already."""
    revoke(bed)
    found.append(bed.admin.exists(KEY))
