"""What a policy means, as text and as a digest that no reformatting changes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass

from keyleash.policy.model import Identity, Pattern, Policy

_LEFT_OUT_AT_DEFAULT = frozenset(
    {
        "channels",
        "image_bytes",
        "value_bytes",
        "work",
        "retain_s",
        "hard_max",
        "reads",
        "values",
        "mask_keys",
        "durability",
        "on_denials",
    }
)
"""Fields that came later: identities that do not use them keep the digest they had."""

_UNORDERED = frozenset({"only", "except_", "rates", "budgets"})
"""Collections whose order in the model says nothing."""


def canonical(identity: Identity) -> str:
    """
    The meaning of an identity as one line of JSON.

    Two identities have the same text if and only if all fields of the model that
    carry meaning are equal; places in the file and the order of limits, `only` and
    `except` carry none. A new field of the model is included without a change here.
    """
    return _dump(_plain(identity))


def identity_digest(identity: Identity) -> str:
    """SHA-256 of the identity's canonical text, in hex."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def policy_digest(policy: Policy) -> str:
    """SHA-256 over all identities' canonical texts, in hex; their order does not count."""
    texts = sorted(canonical(identity) for identity in policy.identities)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def plain(value: object) -> object:
    """A part of the model as JSON has it; what stands in its default may be left out."""
    return _plain(value)


def _plain(value: object) -> object:
    if isinstance(value, Pattern):
        return value.source
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        # A field that does not count in comparisons, such as a span, has no meaning either.
        return {
            field.name.rstrip("_"): _field(field.name, getattr(value, field.name))
            for field in fields(value)
            if field.compare
            and not (
                field.name in _LEFT_OUT_AT_DEFAULT and getattr(value, field.name) == field.default
            )
        }
    return value


def _field(name: str, value: object) -> object:
    plain = _plain(value)
    if name in _UNORDERED and isinstance(plain, list):
        return sorted(plain, key=_dump)
    return plain


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
