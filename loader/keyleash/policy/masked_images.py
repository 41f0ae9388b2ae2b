"""Before-images that are asked for in vain, because the keys are masked."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.errors import Span
from keyleash.policy.grants import CHANGING
from keyleash.policy.model import Grant, Identity
from keyleash.policy.node import Node
from keyleash.policy.pattern_tree import PatternTree
from keyleash.policy.problems import Problems


def warn_of_masked_images(identity: Identity, node: Node, warnings: Problems) -> None:
    """
    Warn where *identity* asks for before-images and every key in question is masked.

    Args:
        identity: As it was read from *node*.
        node: Its mapping in the document. What the defaults ask for is meant for others as well.
        warnings: Receives one for each `before_images` that has no effect.
    """
    masks = PatternTree((mask, None) for mask in identity.audit.mask_keys)
    grants = node.get("grants")
    for entry, grant in zip(grants.entries if grants else (), identity.grants, strict=True):
        asked = entry.get("before_images")
        if asked and grant.image_bytes and _all_masked([grant], masks):
            _warn("every key of the grant", asked.label, warnings)
    audit = node.get("audit")
    asked = audit.get("before_images") if audit else None
    others = [
        grant
        for grant in identity.grants
        if grant.image_bytes is None and not CHANGING.isdisjoint(grant.allow)
    ]
    if asked and identity.audit.image_bytes and others and _all_masked(others, masks):
        _warn("every key that this is about", asked.label, warnings)


def _all_masked(grants: Iterable[Grant], masks: PatternTree[None]) -> bool:
    return all(any(masks.that_cover(key)) for grant in grants for key in grant.keys)


def _warn(keys: str, span: Span, warnings: Problems) -> None:
    warnings.add(
        "masked-images",
        f"`before_images` has no effect: {keys} is masked",
        span,
        "remove it, or narrow `mask_keys`; what changed a masked key cannot be undone",
    )
