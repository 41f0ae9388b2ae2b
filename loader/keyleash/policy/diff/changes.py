"""The changes of one identity between two policies, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from keyleash.policy.canonical import plain
from keyleash.policy.diff.permissions import Gain
from keyleash.policy.model import Identity, IdentityKind
from keyleash.policy.settings import Setting
from keyleash.text import to_json


class Part(StrEnum):
    """The part of an identity that a change affects."""

    KIND = "kind"
    GRANT = "grant"
    DENY = "deny"
    RATE = "rate"
    BUDGET = "budget"
    TOKEN = "token"
    DELEGATE = "delegate"
    AUDIT = "audit"
    DURABILITY = "durability"
    CLUSTER = "cluster"
    ON_DENIALS = "on_denials"
    IDEMPOTENCY = "idempotency"
    LIMITS = "limits"
    COMMANDS = "commands"
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

    @property
    def rule(self) -> str:
        """The name of the rule: `grant`, `rate.writes`, `token.ttl`."""
        name = self.setting.key if self.setting else self.name
        return f"{self.part}.{name}" if name else self.part.value

    def to_dict(self) -> dict[str, Any]:
        """Return the change as `keyleash plan --json` prints it."""
        before, after = self.before, self.after
        if self.part is Part.ORDER:
            before = after = None
        return {"rule": self.rule, **_effect(self), "before": plain(before), "after": plain(after)}


@dataclass(frozen=True, slots=True)
class IdentityDiff:
    """
    The changes of one identity.

    Attributes:
        before, after: The identity; None where it does not exist.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the changes as `keyleash plan --json` prints them."""
        return {
            "name": self.name,
            "kind": to_json(self.kind),
            **_effect(self),
            "changes": [change.to_dict() for change in self.changes],
            "gains": [gain.to_dict() for gain in self.gains],
            "losses": [loss.to_dict() for loss in self.losses],
        }


def _effect(change: IdentityDiff | PolicyChange) -> dict[str, Any]:
    added, removed = change.before is None, change.after is None
    action = "add" if added else "remove" if removed else "change"
    return {"action": action, "widens": change.widens, "narrows": change.narrows}
