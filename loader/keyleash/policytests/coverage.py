"""Which patterns of grants and deny rules decided some call of the tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from keyleash.commands import OperationClass
from keyleash.decision import Decision
from keyleash.decision.trace import ArgumentStep, KeyStep, Match
from keyleash.policy import Deny, Grant, Identity, Pattern, Policy


@dataclass(frozen=True, slots=True)
class Place:
    """One pattern of one rule of an identity: what is covered or not."""

    identity: str
    kind: str
    number: int
    pattern: Pattern


@dataclass(slots=True)
class Coverage:
    """
    What the tests of one policy have come past.

    A pattern of a grant is covered if it gave a class, or the whole of a key's or a
    channel's permission; one of a deny rule if it refused a key.
    """

    policy: Policy
    covered: set[Place] = field(default_factory=set)

    def note(self, identity: Identity, decisions: Iterable[Decision]) -> None:
        """Count what decided calls of *identity*."""
        places = {(id(rule), pattern): place for rule, pattern, place in _places(identity)}
        for decision in decisions:
            for match in _deciding(decision):
                self.covered.add(places[id(match.rule), match.pattern])

    @property
    def places(self) -> list[Place]:
        """Every pattern, in the order of the policy."""
        return [place for one in self.policy.identities for _, _, place in _places(one)]

    @property
    def uncovered(self) -> list[Place]:
        """Those that decided nothing."""
        return [place for place in self.places if place not in self.covered]


def percent(coverages: Iterable[Coverage]) -> float:
    """Of all patterns together; 100 if there are none."""
    counts = [(len(one.places), len(one.uncovered)) for one in coverages]
    total = sum(places for places, _ in counts)
    return 100 * (1 - sum(uncovered for _, uncovered in counts) / total) if total else 100.0


def _places(identity: Identity) -> Iterator[tuple[Grant | Deny, Pattern, Place]]:
    for number, grant in enumerate(identity.grants):
        for pattern in (*grant.keys, *grant.channels):
            yield grant, pattern, Place(identity.name, "grant", number, pattern)
    for number, deny in enumerate(identity.deny):
        for pattern in deny.keys:
            yield deny, pattern, Place(identity.name, "deny", number, pattern)


def _deciding(decision: Decision) -> Iterator[Match[Grant] | Match[Deny]]:
    for step in decision.trace:
        match step:
            case KeyStep(denied_by=(_, *_)):
                yield from step.denied_by
            case KeyStep(code=None):
                yield from (one for one in step.granted_by if _gives(one, step.needs))
            case ArgumentStep(code=None):
                yield from step.granted_by


def _gives(match: Match[Grant], needs: tuple[OperationClass, ...]) -> bool:
    return not needs or not set(needs).isdisjoint(match.rule.allow)
