"""The policy: its model, its parser, and the matching of key patterns."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyleash.policy.keysets import overlaps
    from keyleash.policy.model import Deny, Grant, Identity, Pattern, Policy
    from keyleash.policy.parse import parse_policy
    from keyleash.policy.patterns import match, parse_pattern

__all__ = [
    "Deny", "Grant", "Identity", "Pattern", "Policy", "match", "overlaps", "parse_pattern",
    "parse_policy",
]  # fmt: skip
_MODULES = {
    "match": "patterns", "overlaps": "keysets", "parse_pattern": "patterns",
    "parse_policy": "parse",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    # On use: a client needs no parser, and other modules of this package no model.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'model')}"), name)
    return globals().setdefault(name, found)
