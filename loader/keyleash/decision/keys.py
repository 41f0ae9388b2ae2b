"""Deny rules and grants for one key."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.commands import OperationClass
from keyleash.decision.matching import matches
from keyleash.decision.verdict import ALLOWED, Decision, refused
from keyleash.errors import ReplyCode
from keyleash.policy import Grant, Identity

CONTROL_PREFIX = b"keyleash:"


def judge_key(
    identity: Identity,
    grants: Sequence[Grant],
    key: bytes,
    needs: Sequence[OperationClass],
    command: bytes,
) -> Decision:
    """Deny rules first, then one class after the other; *grants* are those for the command."""
    if key.startswith(CONTROL_PREFIX) or any(
        matches(pattern, key) for deny in identity.deny for pattern in deny.keys
    ):
        return refused(ReplyCode.KEY_DENIED, key=key)
    matching = [grant for grant in grants if any(matches(one, key) for one in grant.keys)]
    if not matching:
        return refused(ReplyCode.KEY_NOT_GRANTED, key=key)
    for needed in needs:
        if not any(needed in grant.allow for grant in matching):
            return refused(ReplyCode.CLASS_NOT_GRANTED, class_=needed, command=command, key=key)
    return ALLOWED
