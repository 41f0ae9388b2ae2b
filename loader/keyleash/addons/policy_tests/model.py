"""Cases of a policy test, and errors in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from keyleash.commands import OperationClass
from keyleash.errors import ReplyCode, Span
from keyleash.operator.tokens.restrict import Scope, restrict
from keyleash.policy import Identity, Pattern
from keyleash.store.restrictions import Restrictions


@dataclass(frozen=True, slots=True)
class Expected:
    """
    The expected decision about a call.

    Attributes:
        code: The code of the denial; None if the call is to be allowed.
        details: The details to compare, with the names of a denial.
    """

    code: ReplyCode | None
    details: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        pairs = (f"{name}={value}" for name, value in self.details.items())
        return " ".join(["allow" if self.code is None else str(self.code), *pairs])


@dataclass(frozen=True, slots=True)
class TestStep:
    """
    A call, made once or several times at one moment.

    Attributes:
        at_us: Its time in Unix microseconds, a whole millisecond.
        token: Name of the token; each name in a case is another token.
        argv: The command as a client sends it, its name in capitals.
        times: Number of calls; each has the same expected decision.
    """

    at_us: int
    token: str
    argv: tuple[bytes, ...]
    times: int
    expected: Expected
    span: Span


@dataclass(frozen=True, slots=True)
class BoundToken:
    """The restrictions of a token, and their place in the file."""

    scope: Scope
    span: Span


@dataclass(frozen=True, slots=True)
class Case:
    """
    Steps of one identity, whose counters start at 0.

    Attributes:
        bound: The bound tokens by their names in the steps.
    """

    name: str
    identity: str
    steps: tuple[TestStep, ...]
    span: Span
    identity_span: Span
    bound: Mapping[str, BoundToken] = field(default_factory=dict)

    def restrictions(self, identity: Identity) -> dict[str, Restrictions]:
        """Return the restrictions of its bound tokens by their names, with unused caps."""
        found = {name: restrict(identity, token.scope) for name, token in self.bound.items()}
        return {name: item for name, item in found.items() if item is not None}


class InvariantRule(StrEnum):
    """The field of an invariant that has its classes."""

    NO_IDENTITY_MAY = "no_identity_may"
    MAY_ONLY = "may_only"
    NO_TWO_MAY = "no_two_may"


@dataclass(frozen=True, slots=True)
class Invariant:
    """A statement about all keys, channels and indexes, which a policy must keep.

    Attributes:
        classes: The classes that its rule names.
        names: The identity that `may_only` is about; the identities that the others leave out.
        scope: The patterns that it is about, by field of grants; all if it is empty.
        excepted: Patterns that it is not about.
    """

    name: str
    rule: InvariantRule
    classes: tuple[OperationClass, ...]
    names: tuple[str, ...]
    scope: Mapping[str, tuple[Pattern, ...]]
    excepted: tuple[Pattern, ...]
    span: Span
    names_span: Span


@dataclass(frozen=True, slots=True)
class CaseFile:
    """
    The content of a test file.

    Attributes:
        policy: The path of the policy, relative to the file's folder.
        starts_us: The time at which each case begins, Unix microseconds.
    """

    file: str
    policy: str
    starts_us: int
    cases: tuple[Case, ...]
    invariants: tuple[Invariant, ...] = ()
