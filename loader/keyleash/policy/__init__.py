"""The policy: its model, its parser, and the matching of key patterns."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keyleash.policy.keysets import overlaps
from keyleash.policy.model import Deny, Grant, Identity, Pattern, Policy
from keyleash.policy.patterns import match, parse_pattern

if TYPE_CHECKING:
    from keyleash.policy.parse import parse_policy

__all__ = [
    "Deny",
    "Grant",
    "Identity",
    "Pattern",
    "Policy",
    "match",
    "overlaps",
    "parse_pattern",
    "parse_policy",
]


def __getattr__(name: str) -> Any:
    # A client needs only the model, without the import of yaml.
    if name == "parse_policy":
        return import_module("keyleash.policy.parse").parse_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
