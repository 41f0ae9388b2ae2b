"""Cases of a policy test, and errors in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keyleash.errors import PolicyError, Problem, ReplyCode, Span


@dataclass(frozen=True, slots=True)
class Expected:
    """
    What a call is to get.

    Attributes:
        code: None if it is to be allowed.
        details: Those of the refusal that matter, as it gives them.
    """

    code: ReplyCode | None
    details: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        pairs = (f"{name}={value}" for name, value in self.details.items())
        return " ".join(["allow" if self.code is None else str(self.code), *pairs])


@dataclass(frozen=True, slots=True)
class TestStep:
    """
    One call, or the same call several times at one moment.

    Attributes:
        at_us: When, Unix microseconds, a whole millisecond.
        token: Which of the case's tokens makes the call; each name is one of its own.
        argv: As a client sends it, its name in capitals.
        times: How often; each is to get what is expected.
    """

    at_us: int
    token: str
    argv: tuple[bytes, ...]
    times: int
    expected: Expected
    span: Span


@dataclass(frozen=True, slots=True)
class Case:
    """Steps of one identity, for which nothing was counted before the first."""

    name: str
    identity: str
    steps: tuple[TestStep, ...]
    span: Span
    identity_span: Span


@dataclass(frozen=True, slots=True)
class CaseFile:
    """
    What one file holds.

    Attributes:
        policy: The path of the policy, as written; relative to the file's folder.
        starts_us: What the clock says when a case begins.
    """

    file: str
    policy: str
    policy_span: Span
    starts_us: int
    cases: tuple[Case, ...]


class BadCasesError(PolicyError):
    """Test files have problems; all of them are here."""

    code = "bad-tests"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        count = len(problems)
        self.message = f"{count} problem{'s' if count != 1 else ''} in the tests"
