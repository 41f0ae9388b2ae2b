"""The difference of two policies, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from keyleash.policy.diff.permissions import Gain
from keyleash.policy.model import Identity, IdentityKind, Policy
from keyleash.policy.settings import Setting


class Part(StrEnum):
    """The part of an identity that a change affects."""

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
    A rule that is added, removed or changed.

    Attributes:
        name: A limit's counter, or a field of a section; otherwise empty.
        before, after: The rule of the model; None where it does not exist.
        widens: Whether it contributes to calls that become allowed.
        narrows: Whether it contributes to calls that become denied.
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
    The changes of one identity.

    Attributes:
        before, after: The identity; None where it does not exist.
        changes: The changes of its rules.
        gains: Calls that become allowed.
        losses: Calls that become denied.
    """

    name: str
    before: Identity | None
    after: Identity | None
    changes: tuple[PolicyChange, ...]
    gains: tuple[Gain, ...] = ()
    losses: tuple[Gain, ...] = ()

    @property
    def kind(self) -> IdentityKind:
        """The new kind, or the old one of a removed identity."""
        present = self.after or self.before
        return IdentityKind.MACHINE if present is None else present.kind

    @property
    def widens(self) -> bool:
        """True if any call becomes allowed."""
        return bool(self.gains) or any(change.widens for change in self.changes)

    @property
    def narrows(self) -> bool:
        """True if any call becomes denied."""
        return bool(self.losses) or any(change.narrows for change in self.changes)


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """
    The difference of two policies.

    Attributes:
        before, after: The policies; `before` may have no identities.
        identities: Changed identities in the new policy's order, then the removed ones.
        unchanged: Names of the other identities.
    """

    before: Policy
    after: Policy
    identities: tuple[IdentityDiff, ...]
    unchanged: tuple[str, ...]

    @property
    def widens(self) -> bool:
        """True if any call of any identity becomes allowed."""
        return any(identity.widens for identity in self.identities)
