"""The figures of each peer and their table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers.pace import Pace
from benchmarks.peers.peer import QUESTIONS, YES, Peer
from benchmarks.peers.races import BUDGET, Race, Revocation
from benchmarks.support.bars import Spread, ratios, spread_of
from benchmarks.support.measure import MiscountError
from benchmarks.support.section import Figure


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


def table(heading: str, results: Sequence[Result], remarks: Sequence[str]) -> str:
    """All of it."""
    wide = max(len(result.peer.name) for result in results) + 1
    return "\n".join(
        [heading, *_figures(results, wide), "", *_guarantees(results, wide), "", *remarks]
    )


def _figures(results: Sequence[Result], wide: int) -> Iterator[str]:
    yield (
        f"{'':{wide}}{'round':>6}{'p50':>8}{'p99':>8}{'calls':>8}{'× keyleash, p50':>21}"
        f"{'× plain':>9}{'budget of 100':>17}{'wrote after':>13}"
    )
    yield (
        f"{'':{wide}}{'trips':>6}{'µs':>8}{'µs':>8}{'per s':>8}{'(min–max)':>21}"
        f"{'SET':>9}{'overrun':>9}{'charged':>8}{'revoke':>13}"
    )
    for result in results:
        yield (
            f"{result.peer.name:{wide}}{result.trips:6.1f}{result.p50.median:8.1f}{result.p99.median:8.1f}"
            f"{result.rate.median:8,.0f}{result.by_ours!s:>21}{result.by_floor.median:9.2f}"
            f"{overrun(result):>9}{charged(result):>8}{wrote(result):>13}"
        )


def _guarantees(results: Sequence[Result], wide: int) -> Iterator[str]:
    yield f"{'':{wide}}" + "".join(f"{question:>10}" for question in QUESTIONS)
    for result in results:
        promises = result.peer.guarantees
        yield f"{result.peer.name:{wide}}" + "".join(f"{answer:>10}" for answer in promises.answers)
        yield f"  {result.peer.made_of}"
        yield f"  {promises.remark}"


def overrun(result: Result) -> str:
    """The worst race: how many calls passed that a budget of 100 forbids."""
    return f"{result.race.overrun.greatest:+.0f}"


def charged(result: Result) -> str:
    """The worst race: how many calls were counted that were refused."""
    counted = result.race.charged
    return "–" if counted is None else f"{counted.greatest:+.0f}"


def note(peer: Peer) -> str:
    """Versions and guarantees in one line."""
    answers = zip(QUESTIONS, peer.guarantees.answers, strict=True)
    promises = ", ".join(f"{question}: {answer}" for question, answer in answers)
    return f"{peer.made_of}; {promises}; {peer.guarantees.remark}"


def wrote(result: Result) -> str:
    """At how many moments a revoke comes too late for a call that has not written yet."""
    found = result.revocation
    return "–" if found is None else f"{found.written} of {found.moments}"
