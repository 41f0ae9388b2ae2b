"""The figures of each peer and their table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers.pace import Pace
from benchmarks.peers.peer import QUESTIONS, Peer
from benchmarks.peers.races import BUDGET, Race, Revocation
from benchmarks.support.bars import Spread, ratios, spread_of
from benchmarks.support.measure import MiscountError
from benchmarks.support.section import Figure


class BrokenPromiseError(MiscountError):
    """A measurement contradicts a guarantee."""


@dataclass(frozen=True, slots=True)
class Result:
    """All figures of a peer.

    Attributes:
        trips: Requests per call.
        p50, p99: Percentiles of the time per call, µs.
        rate: Calls per second.
        by_ours: p50 relative to keyleash's through the same client, round by round.
        by_floor: p50 relative to a plain SET through the same client.
        revocation: None if there is no token.
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
        """Yield the figures of the peer."""
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
    """Compare the measurements with the peer's guarantees.

    Raises:
        BrokenPromiseError: a measurement contradicts a guarantee.
    """
    promises, race, revocation = result.peer.guarantees.promises, result.race, result.revocation
    broken = {
        "race-free": promises("race-free") and race.overrun.greatest > 0,
        "free": promises("free") and race.charged is not None and race.charged.greatest > 0,
        "revocable": promises("revocable") and revocation is not None and revocation.written,
        "fair": promises("race-free") and race.overrun.least < 0,
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
    """Summarize a peer's rounds, also relative to keyleash and the floor of its client."""
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
    """Return the whole report."""
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
        yield f"{result.peer.name:{wide}}" + "".join(
            f"{answer:>10}" for answer in promises.answers.values()
        )
        yield f"  {result.peer.made_of}"
        yield f"  {promises.remark}"


def overrun(result: Result) -> str:
    """Return the calls beyond the budget in the worst race."""
    return f"{result.race.overrun.greatest:+.0f}"


def charged(result: Result) -> str:
    """Return the charged denied calls in the worst race."""
    counted = result.race.charged
    return "–" if counted is None else f"{counted.greatest:+.0f}"


def note(peer: Peer) -> str:
    """Return versions and guarantees in a line."""
    promises = ", ".join(
        f"{question}: {answer}" for question, answer in peer.guarantees.answers.items()
    )
    return f"{peer.made_of}; {promises}; {peer.guarantees.remark}"


def wrote(result: Result) -> str:
    """Return the number of revocations that were too late to stop the write."""
    found = result.revocation
    return "–" if found is None else f"{found.written} of {found.moments}"
