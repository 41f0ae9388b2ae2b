"""What a call answered, what it should have answered, and whether the two agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keyleash.cli.text import printable
from keyleash.errors import LeashError, ReplyCode

Answer = Any
"""A reply, or the `LeashError` that came in its place."""


@dataclass(frozen=True)
class Outcome:
    """One line of the session, checked."""

    scene: str
    who: str
    call: str
    answer: str
    expected: str
    ok: bool


@dataclass(frozen=True)
class Replies:
    """The command runs and replies *value*."""

    value: Any

    def __str__(self) -> str:
        return said(self.value)

    def is_met_by(self, answer: Answer) -> bool:
        """Whether that is what happened."""
        return not isinstance(answer, LeashError) and bool(answer == self.value)


@dataclass(frozen=True)
class Refused:
    """The guard refuses with *code*, and says at least *details*."""

    code: ReplyCode
    details: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return _line(self.code, self.details)

    def is_met_by(self, answer: Answer) -> bool:
        """Whether that is what happened."""
        return (
            isinstance(answer, LeashError)
            and answer.code is self.code
            and self.details.items() <= answer.details.items()
        )


Expectation = Replies | Refused


def said(answer: Answer) -> str:
    """An answer on one line."""
    match answer:
        case LeashError():
            return _line(answer.code, answer.details)
        case list():
            return ", ".join(map(said, answer))
        case None:
            return "(nil)"
        case True:
            return "OK"
        case int():
            return f"(integer) {answer}"
        case _:
            return printable(str(answer))


def _line(code: ReplyCode, details: Mapping[str, str]) -> str:
    # A moment in milliseconds is for programs; the scenes say it in words where it matters.
    pairs = (
        f"{name}={printable(value)}"
        for name, value in details.items()
        if not name.endswith("_at_ms")
    )
    return " ".join([str(code), *pairs])
