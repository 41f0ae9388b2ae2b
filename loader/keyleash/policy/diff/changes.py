"""What a difference consists of, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from keyleash.policy.diff.permissions import Gain
from keyleash.policy.model import Identity, IdentityKind, Policy
from keyleash.policy.settings import Setting


class Part(StrEnum):
    """What of an identity a change is about."""

    KIND = "kind"
    GRANT = "grant"
    DENY = "deny"
    RATE = "rate"
    BUDGET = "budget"
    TOKEN = "token"
    AUDIT = "audit"
    DURABILITY = "durability"
    ON_DENIALS = "on_denials"
    LIMITS = "limits"
    ORDER = "order"


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """
    One rule that is added, removed or another.

    Attributes:
        name: A limit's counter, or a field of the model's section; else empty.
        before, after: The rule as the model has it; None where it is in one policy alone.
        widens: Whether it has a part in what is allowed now and was not.
        narrows: Whether it has a part in what was allowed and is not any more.
        setting: The declaration of the field, if it has one.
    """

    part: Part
    name: str = ""
    before: object = None
    after: object = None
    widens: bool = False
    narrows: bool = False
    setting: Setting | None = None


@dataclass(frozen=True, slots=True)
class IdentityDiff:
    """
    How one identity changes.

    Attributes:
        before, after: The identity; None where it is in one policy alone.
        changes: Of its rules.
        gains: Calls that are allowed now and were not.
        losses: Calls that were allowed and are not any more.
    """

    name: str
    before: Identity | None
    after: Identity | None
    changes: tuple[PolicyChange, ...]
    gains: tuple[Gain, ...] = ()
    losses: tuple[Gain, ...] = ()

    @property
    def kind(self) -> IdentityKind:
        """Of the identity as it is to be, or as it was."""
        present = self.after or self.before
        return IdentityKind.MACHINE if present is None else present.kind

    @property
    def widens(self) -> bool:
        """Whether the identity may do something that it might not."""
        return bool(self.gains) or any(change.widens for change in self.changes)

    @property
    def narrows(self) -> bool:
        """Whether it may not do something that it might."""
        return bool(self.losses) or any(change.narrows for change in self.changes)


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """
    How one policy differs from another.

    Attributes:
        before, after: The policies; what is `before` may be a policy without identities.
        identities: Those that differ: in the new policy's order, then those that leave it.
        unchanged: Names of those that do not.
    """

    before: Policy
    after: Policy
    identities: tuple[IdentityDiff, ...]
    unchanged: tuple[str, ...]

    @property
    def widens(self) -> bool:
        """Whether some identity may do something that it might not."""
        return any(identity.widens for identity in self.identities)
