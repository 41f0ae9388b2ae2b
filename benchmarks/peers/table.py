"""The report for people: figures, then what they do not buy, then versions and remarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.peers.guarantees import QUESTIONS
from benchmarks.peers.peer import Peer
from benchmarks.peers.result import Result


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
