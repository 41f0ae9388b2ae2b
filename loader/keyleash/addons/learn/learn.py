"""Learn a policy from recorded calls: a proposal, of which nothing is loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from keyleash.addons.learn.calls import CallLog, NotUnderstood
from keyleash.addons.learn.document import SCRIPT_KEYS, PolicyWriter, test_document
from keyleash.addons.learn.needs import CHANGING, LearnedIdentity, ObservedCalls
from keyleash.errors import OperationError
from keyleash.operations.types import Param
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.results import Result
from keyleash.text import clock_time, counted, json_object

MIN_CALLS = 5
Least = Annotated[
    int,
    Param("count", help="Calls that a class needs on a pattern, or it is a comment.", flag="--min"),
]
ENOUGH = 5
"""An identity needs this many times the least number of calls of a rule."""


@dataclass(frozen=True, slots=True)
class Learned(Result):
    """A policy to propose, with the calls that show its need.

    Attributes:
        source: The log, in words.
        identities: Those with enough calls.
        too_few: The numbers of calls of the others.
        least: The calls that a rule has at least.
        not_understood: Lines of the source that were left out.
        scripts: Texts of scripts, by what `LearnedIdentity.scripts` has.
        active: The document of the active policy, if the source is its server.
        is_capture: Whether the source is a capture, not an audit log.
    """

    source: str
    identities: tuple[LearnedIdentity, ...]
    too_few: Mapping[str, int]
    least: int
    not_understood: NotUnderstood
    scripts: Mapping[str, str] = field(default_factory=dict, repr=False)
    active: str = field(default="", repr=False)
    is_capture: bool = False

    def files(self, policy: str = "learned.yaml") -> dict[str, str]:
        """Return the policy, its tests and the texts of its scripts, by names of files.

        Args:
            policy: The name of the policy's file.
        """
        writer = PolicyWriter(
            self.identities, self.scripts, self.least, self.active, is_capture=self.is_capture
        )
        document = writer.document(self._head())
        tests = test_document(self.identities, writer.model(document), policy)
        test_file = f"{policy.removesuffix('.yaml')}.test.yaml"
        return {policy: document, test_file: tests, **writer.files}

    def _head(self) -> Iterator[str]:
        yield f"Learned by `keyleash learn` from {self.source}."
        yield "Review each line: its comment has the calls that show its need."
        yield f"A class that fewer than {self.least} calls of a pattern need is a comment."
        if not self.is_capture:
            yield "Blocking commands and polls that found nothing are not recorded: add their keys."
        for identity in self.identities:
            coverage, name = identity.coverage, identity.name
            since, until = clock_time(coverage.since_ms or 0), clock_time(coverage.until_ms or 0)
            yield f"{name}: {counted(coverage.calls, 'call')}, {since} to {until}"
            reads_ms = coverage.reads_since_ms
            reads = f"since {clock_time(reads_ms)}" if reads_ms else "none: add what it reads"
            yield f"{name}: reads: {reads}"
            yield from (f"{name}: {hole}" for hole in coverage.holes)
        for name, calls in self.too_few.items():
            yield f"{name}: left out, with {counted(calls, 'call')}"
        if self.not_understood.count:
            yield f"{counted(self.not_understood.count, 'line')} not understood, such as"
            yield from (f"  {example}" for example in self.not_understood.examples)
        yield from (f"question: {question}" for question in self.questions)

    def to_dict(self) -> dict[str, Any]:
        """Return what was learned as `learn --json` prints it, with the policy."""
        names = ("source", "identities", "too_few", "least", "not_understood")
        document = self.files()["learned.yaml"]
        return {**json_object(self, *names), "questions": [*self.questions], "policy": document}

    @property
    def questions(self) -> Iterator[str]:
        """Yield what a person has to decide: doubtful patterns, and those that several write."""
        writers, doubts = defaultdict(list), dict[str, None]()
        for identity in self.identities:
            for rule in identity.rules:
                if rule.doubt:
                    doubts[f"`{identity.name}`: `{rule.pattern}` {rule.doubt}"] = None
                if not CHANGING.isdisjoint(rule.allow) and not rule.is_rare:
                    writers[rule.pattern].append(identity.name)
            if identity.scripts and not self.is_capture:
                doubts[f"`{identity.name}` {SCRIPT_KEYS}: which may it name?"] = None
        yield from doubts
        for pattern, names in writers.items():
            if len({*names}) > 1:
                shown = " and ".join(f"`{name}`" for name in dict.fromkeys(names))
                yield f"{shown} write `{pattern}`: are they one identity, or is one not to?"


def learn(log: CallLog, *, least: int = MIN_CALLS) -> Learned:
    """Learn from a log.

    Raises:
        OperationError (too-few-calls): no identity has enough.
    """
    observed: dict[str, ObservedCalls] = defaultdict(ObservedCalls)
    for call in log:
        observed[call.identity].add(call)
    needed = least * ENOUGH
    found, too_few, doubts = [], {}, dict[str, str]()
    for name, coverage in sorted(log.coverage.items()):
        identity = observed[name].learned(name, coverage, least)
        if coverage.calls >= needed and identity.is_granted():
            found.append(identity)
        else:
            too_few[name] = coverage.calls
            doubts |= {r.doubt: f"`{r.pattern}` {r.doubt}" for r in identity.rules if r.doubt}
    if not found:
        most = max(too_few.values(), default=0)
        names = listing(
            (name for name, calls in too_few.items() if calls == most), SHOWN_IDENTITIES
        )
        shown = (
            f"{log.name} has {counted(most, 'call')} of {names or 'one identity'}, and {needed} are"
            f" needed, {least} of them for a class on one pattern"
        )
        lines = log.not_understood
        reasons = [f"{counted(lines.count, 'line')} left out", *lines.examples] * bool(lines.count)
        why = "".join(f"{item}; " for item in (*reasons, *doubts.values()))
        advice = (
            f"{why}record for longer, grant keys by hand, or lower the number of calls (`--min`)"
        )
        raise OperationError("too-few-calls", shown, help=advice)
    about = (log.not_understood, dict(log.scripts), log.active, log.is_capture)
    return Learned(log.name, tuple(found), too_few, least, *about)
