"""The policy: its model, its parser, and the matching of key patterns."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keyleash.limits import SECOND_US, Budget, Counter, Limit, Period, Rate, Subject, SubjectKind
from keyleash.limits.rate import MAX_RING_SLOTS
from keyleash.policy.canonical import canonical, identity_digest, policy_digest
from keyleash.policy.keysets import covers, overlaps
from keyleash.policy.model import (
    Acceptance,
    AnySuffix,
    AuditRules,
    Breaker,
    Capture,
    ClusterRules,
    Deny,
    Durability,
    Grant,
    Idempotency,
    Identity,
    IdentityKind,
    Literal,
    Pattern,
    PatternPart,
    Policy,
    TokenRules,
    ValueRules,
    Values,
)
from keyleash.policy.patterns import match, parse_pattern

if TYPE_CHECKING:
    from keyleash.policy.parse import parse_policy

__all__ = [
    "MAX_RING_SLOTS",
    "SECOND_US",
    "Acceptance",
    "AnySuffix",
    "AuditRules",
    "Breaker",
    "Budget",
    "Capture",
    "ClusterRules",
    "Counter",
    "Deny",
    "Durability",
    "Grant",
    "Idempotency",
    "Identity",
    "IdentityKind",
    "Limit",
    "Literal",
    "Pattern",
    "PatternPart",
    "Period",
    "Policy",
    "Rate",
    "Subject",
    "SubjectKind",
    "TokenRules",
    "ValueRules",
    "Values",
    "canonical",
    "covers",
    "identity_digest",
    "match",
    "overlaps",
    "parse_pattern",
    "parse_policy",
    "policy_digest",
]


def __getattr__(name: str) -> Any:
    # A client needs only the model, without the import of yaml.
    if name == "parse_policy":
        return import_module("keyleash.policy.parse").parse_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
