"""The canonical text of identities and policies, and digests that reformatting does not change."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass

from keyleash.limits import Budget, Rate, Subject
from keyleash.policy.model import (
    Durability,
    Identity,
    Pattern,
    Policy,
    TokenRules,
)

_ALWAYS_WRITTEN = {
    "deny",
    "rates",
    "budgets",
    "token",
    "audit",
    "only",
    "except_",
    "retain",
    *(
        field.name
        for part in (Rate, Budget, Subject, TokenRules, Durability)
        for field in fields(part)
    ),
}
"""Fields that are written even at their default; others are left out, so that the digests of
policies that do not use a new field stay."""

_UNORDERED = frozenset({"only", "except_", "rates", "budgets"})
"""Collections whose order has no meaning."""


def canonical(identity: Identity) -> str:
    """
    Return an identity as one line of JSON.

    Two identities have the same text if and only if they mean the same: places in the file and
    the order of limits, `only` and `except` do not count. New fields of the model are included.
    """
    return _dump(_plain(identity))


def identity_digest(identity: Identity) -> str:
    """Return the SHA-256 of the identity's canonical text, in hex."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def policy_digest(policy: Policy) -> str:
    """Return the SHA-256 over all identities' canonical texts, in hex, in any order."""
    texts = sorted(canonical(identity) for identity in policy.identities)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def plain(value: object) -> object:
    """Return a part of the model as JSON values; defaults may be left out."""
    return _plain(value)


def _plain(value: object) -> object:
    if isinstance(value, Pattern):
        return value.source
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        # Fields that comparisons ignore, such as spans, have no meaning.
        return {
            field.name.rstrip("_"): _field(field.name, getattr(value, field.name))
            for field in fields(value)
            if field.compare
            and (field.name in _ALWAYS_WRITTEN or getattr(value, field.name) != field.default)
        }
    return value


def _field(name: str, value: object) -> object:
    plain = _plain(value)
    if name in _UNORDERED and isinstance(plain, list):
        return sorted(plain, key=_dump)
    return plain


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
