"""The canonical text of identities and policies, and digests that reformatting does not change."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass

from keyleash.policy.model import Identity, Pattern, Policy

_UNORDERED = frozenset({"only", "except_", "rates", "budgets"})
"""Collections whose order has no meaning."""


def canonical(identity: Identity) -> str:
    """
    Return an identity as one line of JSON, without the fields that have their default.

    Two identities have the same text if and only if they mean the same: places in the file and
    the order of limits, `only` and `except` do not count.
    """
    return _dump(plain(identity))


def identity_digest(identity: Identity) -> str:
    """Return the SHA-256 of the identity's canonical text, in hex."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def policy_digest(policy: Policy) -> str:
    """Return the SHA-256 over all identities' canonical texts, in hex, in any order."""
    texts = sorted(canonical(identity) for identity in policy.identities)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def plain(value: object) -> object:
    """Return a part of the model as JSON values, without the fields that have their default."""
    if isinstance(value, Pattern):
        return value.source
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if not is_dataclass(value):
        return value
    # Fields that comparisons ignore, such as spans, have no meaning.
    members = {
        field.name: plain(item)
        for field in fields(value)
        if field.compare and (item := getattr(value, field.name)) != field.default
    }
    return {
        name.rstrip("_"): sorted(item, key=_dump)
        if name in _UNORDERED and isinstance(item, list)
        else item
        for name, item in members.items()
    }


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
