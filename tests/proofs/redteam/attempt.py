"""Attempts to bypass a guard, with the expected outcome in each tier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Tier(StrEnum):
    """A tier of docs/explanation/threat-model.md."""

    DIRECT = "direct"
    GATEWAY = "gateway"


class Outcome(StrEnum):
    """Outcome of an attempt, from best to worst."""

    ACL = "denied by the server"
    GUARD = "denied by the guard"
    NOTHING = "answered, but harmless"
    GRANTED = "ran through the guard"
    POSSIBLE = "possible"


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    An attempt of an attacker with the access of an agent.

    Attributes:
        name: Name of its function.
        section: A heading of the page.
        does: Description, a sentence without a subject.
        act: Runs the attempt; true if it succeeded by its own check.
        expected: Expected outcome per tier; a tier that it is not for is missing.
        by_guard: Whether it calls guards. Events of the guard, and what the agent may read
            through it, are then no success.
    """

    name: str
    section: str
    does: str
    act: Callable[[Any], bool | None]
    expected: dict[Tier, Outcome]
    by_guard: bool


ATTEMPTS: list[Attempt] = []

Act = Callable[[Any], bool | None]


def attempt(
    section: str, *, by_guard: bool = False, **expected: Outcome | None
) -> Callable[[Act], Act]:
    """Register a function; its docstring is the description.

    Args:
        expected: Expected outcome by tier; None if it is not for the tier. Behind a gateway the
            guard denies what is not mentioned. An attempt without the guard is not for the direct
            tier, whose agents may send every command.
    """
    outcomes = {"gateway": Outcome.GUARD, **expected}

    def enter(act: Act) -> Act:
        assert act.__doc__, act
        ATTEMPTS.append(
            Attempt(
                name=act.__name__,
                section=section,
                does=" ".join(act.__doc__.split()),
                act=act,
                expected={Tier(name): item for name, item in outcomes.items() if item},
                by_guard=by_guard,
            )
        )
        return act

    return enter
