"""What one peer came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers.guarantees import YES
from benchmarks.peers.pace import Pace
from benchmarks.peers.peer import Peer
from benchmarks.peers.race import BUDGET, Race
from benchmarks.peers.revocation import Revocation
from benchmarks.support.measure import MiscountError
from benchmarks.support.section import Figure
from benchmarks.support.spread import Spread, ratios, spread_of


class BrokenPromiseError(MiscountError):
    """What was seen contradicts what is said to be guaranteed."""


@dataclass(frozen=True, slots=True)
class Result:
    """All figures of a peer.

    Attributes:
        trips: Requests per call.
        p50, p99: Of the time of a call, µs.
        rate: Calls per second.
        by_ours: p50 by keyleash's through the same client, round by round.
        by_floor: p50 by that of the same client's own SET.
        race: Against a budget.
        revocation: Of a token in the middle of a call; None if there is no token.
    """

    peer: Peer
    trips: float
    p50: Spread
    p99: Spread
    rate: Spread
    by_ours: Spread
    by_floor: Spread
    race: Race
    revocation: Revocation | None

    def figures(self, server: str) -> Iterator[Figure]:
        """For the suite's results."""
        at = {"client": self.peer.client.name}
        raced = {OVERRUN: self.race.overrun}
        if self.race.charged is not None:
            raced[CHARGED] = self.race.charged
        if self.revocation is not None:
            raced["writes after a revoke, by moments"] = _exactly(
                self.revocation.written / self.revocation.moments
            )
        for unit, value in {
            P50: self.p50,
            "p99, µs": self.p99,
            "calls per s": self.rate,
            BY_OURS: self.by_ours,
            "× plain SET, p50": self.by_floor,
            "round trips": _exactly(self.trips),
            **raced,
        }.items():
            yield Figure(self.peer.name, unit, value, server, at)


def require_promises_kept(result: Result) -> None:
    """Compare what was seen with what the peer's guarantees say.

    Raises:
        BrokenPromiseError: a call passed, or was charged or refused, against a guarantee.
    """
    promises, race, revocation = result.peer.guarantees, result.race, result.revocation
    broken = {
        "race-free": promises.race_free is YES and race.overrun.greatest > 0,
        "free": promises.free is YES and race.charged is not None and race.charged.greatest > 0,
        "revocable": promises.revocable is YES and revocation is not None and revocation.written,
        "fair": promises.race_free is YES and race.overrun.least < 0,
    }
    for name, seen in broken.items():
        if seen:
            raise BrokenPromiseError(f"`{result.peer.name}` is not {name}: {race}, {revocation}")


def _exactly(value: float) -> Spread:
    return spread_of([value])


P50 = "p50, µs"
BY_OURS = "× keyleash, p50"
CHARGED = "charged and not written"
OVERRUN = f"calls beyond a budget of {BUDGET}"


def result_of(
    peer: Peer,
    trips: float,
    race: Race,
    revocation: Revocation | None,
    rounds: Sequence[Mapping[str, Pace]],
) -> Result:
    """Put a peer's rounds together, and beside keyleash and the floor of its client."""
    own = [turn[peer.name] for turn in rounds]
    p50, ours, floor = (
        [turn[name].p50_us for turn in rounds]
        for name in (peer.name, peer.client.ours, peer.client.floor)
    )
    return Result(
        peer,
        trips,
        spread_of(p50),
        spread_of([run.p99_us for run in own]),
        spread_of([run.per_s for run in own]),
        ratios(p50, ours),
        ratios(p50, floor),
        race,
        revocation,
    )
