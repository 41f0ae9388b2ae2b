"""All cases of all files, and what they covered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keyleash.commands import CommandTable
from keyleash.policytests.coverage import Coverage, percent
from keyleash.policytests.guards import Guards
from keyleash.policytests.play import Outcome, Verdict, judged, model_decisions
from keyleash.policytests.suite import Suite


@dataclass(frozen=True, slots=True)
class Played:
    """A case as it ended, and the file that it stands in."""

    suite: Suite
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Report:
    """What became of all cases; `coverages` has one entry for each policy."""

    played: tuple[Played, ...]
    coverages: tuple[Coverage, ...]

    @property
    def percent(self) -> float:
        """Of the patterns of all policies."""
        return percent(self.coverages)

    def ended(self, verdict: Verdict) -> list[Played]:
        """The cases that ended so."""
        return [one for one in self.played if one.outcome.verdict is verdict]


def run_suites(
    suites: Sequence[Suite],
    table: CommandTable,
    guards: Guards | None,
    heard: Callable[[], None] = lambda: None,
) -> Report:
    """
    Play every case on the model, and on real guards if there are any.

    Args:
        suites: What to play.
        table: The commands: those of the guards' server.
        guards: On a server of their own; None for the model alone.
        heard: Called after each case.

    Raises:
        GuardBrokeError: A guard ended in an error of its own.
    """
    played: list[Played] = []
    coverages: dict[str, Coverage] = {}
    loaded: tuple[str, int] | None = None
    for suite in suites:
        coverage = coverages.setdefault(suite.policy_file, Coverage(suite.policy))
        wanted = (suite.policy_file, suite.cases.starts_us)
        if guards is not None and loaded != wanted:
            guards.load(suite.document, suite.policy_file, suite.cases.starts_us)
            loaded = wanted
        for case in suite.cases.cases:
            identity = suite.policy.identity(case.identity)
            assert identity is not None  # noqa: S101 - `read_suites` looked
            decisions = list(model_decisions(case, identity, table))
            real = None if guards is None else guards.decisions(case, identity)
            outcome = judged(case, decisions, real)
            coverage.note(identity, outcome.decisions)
            played.append(Played(suite, outcome))
            heard()
    return Report(tuple(played), tuple(coverages.values()))
