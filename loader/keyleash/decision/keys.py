"""Deny rules and grants for one key."""

from __future__ import annotations

from keyleash.commands.keys import KeyUse
from keyleash.decision.command import Command
from keyleash.decision.matching import matches_of
from keyleash.decision.trace import KeyStep, Trace
from keyleash.decision.verdict import ALLOWED, Decision, refused
from keyleash.errors import ReplyCode
from keyleash.policy import Identity
from keyleash.policy.patterns import may_start_with

CONTROL_PREFIX = b"keyleash:"


def judge_key(identity: Identity, command: Command, use: KeyUse, trace: Trace) -> Decision:
    """Deny rules first, then one class after the other, by the grants for the command."""
    key, is_control = use.key, is_control_key(identity, use.key)
    denied_by = tuple(matches_of(identity.deny, key))
    granted_by = tuple(matches_of(command.grants, key))
    missing, verdict = None, ALLOWED
    if is_control or denied_by:
        verdict = refused(ReplyCode.KEY_DENIED, key=key)
    elif not granted_by:
        verdict = refused(ReplyCode.KEY_NOT_GRANTED, key=key)
    else:
        given = {one for match in granted_by for one in match.rule.allow}
        missing = next((needed for needed in use.needs if needed not in given), None)
    if missing is not None:
        verdict = refused(
            ReplyCode.CLASS_NOT_GRANTED, class_=missing, command=command.name, key=key
        )
    trace.append(
        KeyStep(key, use.needs, denied_by, granted_by, missing, is_control, code=verdict.code)
    )
    return verdict


def is_control_key(identity: Identity, key: bytes) -> bool:
    """Whether it is keyleash's own; that is only said where a grant leads to such keys."""
    return key.startswith(CONTROL_PREFIX) and any(
        may_start_with(pattern, CONTROL_PREFIX)
        for grant in identity.grants
        for pattern in grant.keys
    )
