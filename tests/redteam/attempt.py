"""An attempt to get past a guard, and what must become of it at each tier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Tier(StrEnum):
    """How an agent is bound; see docs/explanation/threat-model.md."""

    COOPERATIVE = "cooperative"
    FENCED = "fenced"
    SEALED = "sealed"


class Outcome(StrEnum):
    """What became of an attempt; the later, the worse."""

    ACL = "refused by the server"
    GUARD = "refused by the guard"
    NOTHING = "answered, and worth nothing"
    POSSIBLE = "possible"


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    One thing that somebody may try who holds no more than an agent does.

    Attributes:
        name: Of its function.
        section: What it is about: a heading of the page.
        does: What it does, as one sentence without a subject.
        act: Makes it; true if it saw for itself that it succeeded.
        expected: What must become of it.
        by_guard: It calls guards. Then what a guard writes down about its own agent's calls is
            no success, and neither is what the agent may read through it.
    """

    name: str
    section: str
    does: str
    act: Callable[[Any], bool | None]
    expected: Mapping[Tier, Outcome]
    by_guard: bool


ATTEMPTS: list[Attempt] = []

Act = Callable[[Any], bool | None]


def attempt(
    section: str,
    *,
    cooperative: Outcome,
    fenced: Outcome,
    sealed: Outcome,
    by_guard: bool = False,
) -> Callable[[Act], Act]:
    """Enter a function whose docstring says what it does."""

    def enter(act: Act) -> Act:
        assert act.__doc__, act
        ATTEMPTS.append(
            Attempt(
                name=act.__name__,
                section=section,
                does=" ".join(act.__doc__.split()),
                act=act,
                expected={
                    Tier.COOPERATIVE: cooperative,
                    Tier.FENCED: fenced,
                    Tier.SEALED: sealed,
                },
                by_guard=by_guard,
            )
        )
        return act

    return enter
