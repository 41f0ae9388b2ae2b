"""The compiler's plain data: what a guard of one identity consists of.

Each pass fills the fields that carry its name in `passes/__init__.py`; emission
decides nothing. All values are hashable and ordered, so that `repr` of a guard is
a stable description of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from keyleash.commands import CommandSpec, OperationClass
from keyleash.policy.model import Counter, Identity
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.state import EMPTY_LAYOUT, Layout, Slot


@dataclass(frozen=True, slots=True)
class Usage:
    """A command that some grant could allow, and which grants.

    Attributes:
        spec: The command's row.
        grants: Indexes of the grants whose only/except lists let the command through.
        missing: The first class that none of these grants gives; None if all are given.
    """

    spec: CommandSpec
    grants: tuple[int, ...]
    missing: OperationClass | None


@dataclass(frozen=True, slots=True)
class Matcher:
    """A key pattern, as the Lua that decides it.

    Exactly one of `text` (the key equals it) and `pattern` (an anchored Lua pattern
    that finds it) is set, or neither: then every key matches.
    """

    text: bytes | None = None
    pattern: bytes | None = None


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing a key must fulfil: some matcher of `matchers` matches it.

    Attributes:
        matchers: Of the grants that give the needed classes.
        others: Of the remaining grants: if one of these matches, the key is known but a
            class is not granted on it.
        missing: That class; None if there are no others.
    """

    missing: OperationClass | None
    matchers: tuple[Matcher, ...]
    others: tuple[Matcher, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """All requirements on one key."""

    id: int
    requirements: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One way of treating commands: where keys stand, how they are checked, what is counted.

    Attributes:
        id: From 1; dispatch assigns it.
        first, last, step: The walk over the keys, in places of the command (its name is
            place 0, -1 the last argument); a keyless command has `last` before `first`.
        check: For the first key; 0 if there is none.
        rest: For every further key.
        counters: What the call counts towards, besides requests.
        mutates: Whether it is audited.
        nulls: How to find the length of a reply that may hold nulls (`compiler.replies`).
        missing: The class that no grant gives: then the rule is this refusal alone.
        reading: The rule that takes over when `reads_if` stands in the call; 0 if none.
        reads_if: The option word that makes the command read as well.
        refused_if: The option word with which the command is refused.
    """

    id: int = 0
    first: int = 1
    last: int = 0
    step: int = 1
    check: int = 0
    rest: int = 0
    counters: tuple[Counter, ...] = ()
    mutates: bool = False
    nulls: str | None = None
    missing: OperationClass | None = None
    reading: int = 0
    reads_if: str | None = None
    refused_if: str | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """Commands with names of one length, and the rule of each, often-used first."""

    length: int
    commands: tuple[tuple[tuple[str, ...], int], ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of calendar windows of equal length (see `compiler/calendar.py`)."""

    start_us: int
    until_us: int | None
    step_us: int


@dataclass(frozen=True, slots=True)
class LimitPlan:
    """One limit, ready to be written out.

    Attributes:
        number: From 1; makes the limit's Lua names.
        counter: What it counts.
        slot: Its kind and numbers; for a subject other than the identity only the kind
            and the quantities matter.
        tolerance_us: GCRA's burst tolerance.
        runs: A budget's windows.
        subject: `identity`, `token` or `capture`.
        key_prefix: Of the counter's key, for the latter two.
        captures: Lua patterns that capture the subject, in policy order.
    """

    number: int
    counter: Counter
    slot: Slot
    tolerance_us: int = 0
    runs: tuple[Run, ...] = ()
    subject: str = "identity"
    key_prefix: str = ""
    captures: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Guard:
    """Everything that a guard's text is made from."""

    identity: Identity
    keyspace: Keyspace
    policy_digest: str
    calendar_year: int
    usages: tuple[Usage, ...] = ()
    matchers: tuple[tuple[Matcher, ...], ...] = ()
    denied: tuple[Matcher, ...] = ()
    denied_last: bool = False
    checks: tuple[Check, ...] = ()
    rules: tuple[Rule, ...] = ()
    assigned: tuple[tuple[str, int], ...] = ()
    dispatch: tuple[Branch, ...] = ()
    layout: Layout = EMPTY_LAYOUT
    limits: tuple[LimitPlan, ...] = ()
