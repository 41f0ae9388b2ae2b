"""A decision and the steps that led to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Generic, TypeVar

from keyleash.commands import OperationClass
from keyleash.errors import ReplyCode
from keyleash.limits import Limit
from keyleash.policy import Deny, Grant, Pattern

Rule = TypeVar("Rule", Grant, Deny)


@dataclass(frozen=True, slots=True)
class Match(Generic[Rule]):
    """A pattern of a grant or of a deny rule that matches, and the values of its captures."""

    rule: Rule
    pattern: Pattern
    captures: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A check of a call; `code` is the denial with which it ends the call, or None."""

    code: ReplyCode | None = None


@dataclass(frozen=True, slots=True)
class StandingStep(Step):
    """The identity, if it is suspended or has no state and the call is denied."""


@dataclass(frozen=True, slots=True)
class TokenStep(Step):
    """The token, if it is named and the call is denied because of it."""


@dataclass(frozen=True, slots=True)
class ArgumentsStep(Step):
    """The number of arguments with the name; recorded only if there are too many."""

    arguments: int


@dataclass(frozen=True, slots=True)
class CommandStep(Step):
    """
    The command, and the grants that apply to it.

    Attributes:
        command: In upper case, with the sub-command if denials name it.
        grants: The grants whose `only` and `except` include it.
        why: The reason of COMMAND_REFUSED.
    """

    command: bytes
    grants: tuple[Grant, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionStep(Step):
    """The handling of a command by a guarded connection, if it is no plain call of a guard."""

    note: str


@dataclass(frozen=True, slots=True)
class ScriptStep(Step):
    """An approved script: its SHA-1, or the name of several, and the names of its approval."""

    digest: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClassStep(Step):
    """An operation class that the call needs somewhere, and the grants that give it."""

    needed: OperationClass
    grants: tuple[Grant, ...] = ()


class Aspect(StrEnum):
    """The aspect of a non-key argument that is checked."""

    INTEGER = "integer"
    OPTION = "option"
    GLOB = "glob"
    PATTERN = "pattern"
    CHANNEL = "channel"
    INDEX = "index"
    PREFIX = "prefix"


@dataclass(frozen=True, slots=True)
class ArgumentStep(Step):
    """A non-key argument: a denied option, or a glob, pattern, channel or index that grants must
    match; or all keys with a prefix that an index has.
    """

    aspect: Aspect
    value: bytes
    granted_by: tuple[Match[Grant], ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class KeyStep(Step):
    """
    A key of the call.

    Attributes:
        needs: The classes that the call needs on it; if there are none, any grant is enough.
        denied_by: The deny rules that match; they take precedence.
        granted_by: The grants for the command that match, whatever they allow.
        missing: The class that no such grant gives, if the call is denied for it.
        is_control: Whether it is one of keyleash's own keys, which are always denied.
    """

    key: bytes
    needs: tuple[OperationClass, ...]
    denied_by: tuple[Match[Deny], ...] = ()
    granted_by: tuple[Match[Grant], ...] = ()
    missing: OperationClass | None = None
    is_control: bool = False


@dataclass(frozen=True, slots=True)
class RestrictionStep(Step):
    """The restrictions of the token; recorded only if they deny what its identity may do."""


@dataclass(frozen=True, slots=True)
class DeclaredStep(Step):
    """The keys that the caller declares; recorded only if they are not those of the call."""


@dataclass(frozen=True, slots=True)
class UnknownStep(Step):
    """Checks that depend on what keys hold, which a policy alone cannot make."""


@dataclass(frozen=True, slots=True)
class GuardStep(Step):
    """The answer of the guard on the server."""


@dataclass(frozen=True, slots=True)
class ValueStep(Step):
    """
    A rule for values; recorded only if the call breaks it.

    Attributes:
        rule: Its name in `values` of a grant.
        limit: What it allows.
        was: What the call would leave.
        key: The key of the value.
    """

    rule: str
    limit: str
    was: str
    key: bytes


@dataclass(frozen=True, slots=True)
class RoomStep(Step):
    """The audit stream, if it has no room for the event."""


@dataclass(frozen=True, slots=True)
class LimitStep(Step):
    """
    A limit that counts the call.

    Attributes:
        subject: A token's id or a captured segment; empty for the identity.
        left: The number of calls that are allowed now, before this one is counted.
        free_us: When the next call is allowed; not after now if it is allowed now.
        resets_us: When nothing is counted any more; None if nothing is.
    """

    limit: Limit
    subject: bytes
    left: int
    free_us: int
    resets_us: int | None


Trace = list[Step]
"""The steps so far; each check appends to it."""


SHOWN_BYTES = 128
"""The most bytes of a value that a denial repeats."""


@dataclass(frozen=True, slots=True)
class Decision:
    """
    Allowed, or denied with a code and details; never true or false by itself.

    Attributes:
        trace: The steps that led to it, in order; not part of a comparison.
    """

    code: ReplyCode | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    trace: tuple[Step, ...] = field(default=(), compare=False, repr=False)

    @property
    def allowed(self) -> bool:
        return self.code is None

    @property
    def is_open(self) -> bool:
        """Return whether only what keys hold may deny it, and no guard was asked about that."""
        return self.allowed and any(isinstance(step, UnknownStep) for step in self.trace)

    def __bool__(self) -> bool:
        raise TypeError("a decision is neither true nor false; ask for `.allowed`")


ALLOWED = Decision()


def confirmed(decision: Decision, guard: Decision) -> Decision:
    """Return the answer of a guard about a call that the model allows, with the model's steps."""
    steps = (step for step in decision.trace if not isinstance(step, UnknownStep))
    return replace(guard, trace=(*steps, GuardStep(code=guard.code)))


def refused(code: ReplyCode, **details: bytes | str | int) -> Decision:
    """Return a denial; write `class_` for the detail `class`."""
    return Decision(code, {name.rstrip("_"): shown(value) for name, value in details.items()})


def shown(value: bytes | str | int) -> str:
    """Return a value as a denial repeats it."""
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return raw[:SHOWN_BYTES].decode("utf-8", "surrogateescape")
