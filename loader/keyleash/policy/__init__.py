"""The policy: its model, its parser, and the matching of key patterns."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keyleash.limits import SECOND_US, Budget, Counter, Limit, Period, Rate, SubjectKind
from keyleash.policy.keysets import overlaps
from keyleash.policy.model import (
    AnySuffix,
    Capture,
    Deny,
    Grant,
    Identity,
    IdentityKind,
    Literal,
    Pattern,
    Policy,
    ValueRules,
)
from keyleash.policy.patterns import match, parse_pattern

if TYPE_CHECKING:
    from keyleash.policy.parse import parse_policy

__all__ = [
    "SECOND_US",
    "AnySuffix",
    "Budget",
    "Capture",
    "Counter",
    "Deny",
    "Grant",
    "Identity",
    "IdentityKind",
    "Limit",
    "Literal",
    "Pattern",
    "Period",
    "Policy",
    "Rate",
    "SubjectKind",
    "ValueRules",
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
