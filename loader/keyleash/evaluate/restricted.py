"""Decide whether the restrictions of a bound token allow a call that its identity may make.

The token's permissions are those of an identity whose patterns have values in place of captures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.keys import KeyUse
from keyleash.commands.spec import Subscribes
from keyleash.errors import ReplyCode
from keyleash.evaluate.trace import ALLOWED, Decision, RestrictionStep, Trace, refused
from keyleash.policy import Grant, Pattern, match
from keyleash.policy.patterns import beginning, bound_pattern, is_open
from keyleash.store.restrictions import Restrictions


def judge_restricted_key(
    restrictions: Restrictions | None,
    grants: Sequence[Grant],
    command: bytes,
    needs: Sequence[OperationClass],
    use: KeyUse,
    trace: Trace,
) -> Decision:
    """Check a key of a call, and *needs*, the classes of the call on one key or another."""
    if restrictions is None:
        return ALLOWED
    lacking = next((cls for cls in needs if cls not in restrictions.allow), None)
    if lacking is not None:
        return refused_by_token(
            trace, ReplyCode.CLASS_NOT_GRANTED, class_=lacking, command=command, key=use.key
        )
    keys = restrictions.keys
    is_within = keys is None or any(match(key, use.key) is not None for key in keys)
    for cls in use.needs or (None,):
        giving = [grant for grant in grants if cls is None or cls in grant.allow]
        patterns = _keys(giving, restrictions)
        is_within = is_within and any(match(item, use.key) is not None for item in patterns)
    return ALLOWED if is_within else refused_by_token(trace, ReplyCode.KEY_NOT_GRANTED, key=use.key)


def judge_restricted_arguments(
    restrictions: Restrictions | None,
    grants: Sequence[Grant],
    command: bytes,
    spec: CommandSpec,
    argument: bytes,
    trace: Trace,
) -> Decision:
    """Check the glob of a SCAN, or the channel of a call."""
    if restrictions is None:
        return ALLOWED
    needed = spec.needs[0]
    giving = [grant for grant in grants if needed in grant.allow]
    if needed not in restrictions.allow:
        return refused_by_token(
            trace, ReplyCode.CLASS_NOT_GRANTED, class_=needed, command=command, key=argument
        )
    if spec.scans:
        start = literal_start(argument)
        keys = restrictions.keys
        is_within = keys is None or any(
            start.startswith(beginning(key)) if is_open(key) else argument == beginning(key)
            for key in keys
        )
        starts = map(beginning, _keys(giving, restrictions))
        if is_within and (not restrictions.bind or start.startswith((*starts,))):
            return ALLOWED
        return refused_by_token(trace, ReplyCode.KEY_NOT_GRANTED, key=argument)
    is_pattern = spec.subscribes is Subscribes.PATTERN
    start = literal_start(argument) if is_pattern else argument
    for grant in giving:
        for channel in grant.channels:
            bound = bound_pattern(channel, restrictions.bind)
            if bound is None or match(bound, start) is None:
                continue
            if start == argument or is_open(bound):
                return ALLOWED
    return refused_by_token(trace, ReplyCode.CHANNEL_NOT_GRANTED, channel=argument)


def judge_restricted_pattern(
    restrictions: Restrictions | None,
    grants: Sequence[Grant],
    pattern: bytes,
    before: bytes,
    trace: Trace,
) -> Decision:
    """Check a pattern of SORT that begins with *before*."""
    if restrictions is None:
        return ALLOWED
    reading = [grant for grant in grants if OperationClass.READ in grant.allow]
    if reaches_all(restrictions, before) and any(
        is_open(item) and match(item, before) is not None for item in _keys(reading, restrictions)
    ):
        return ALLOWED
    return refused_by_token(trace, ReplyCode.KEY_NOT_GRANTED, key=pattern)


def reaches_all(restrictions: Restrictions, prefix: bytes) -> bool:
    """Return whether the keys of a token have all those that begin with *prefix*."""
    return restrictions.keys is None or any(
        is_open(key) and prefix.startswith(beginning(key)) for key in restrictions.keys
    )


def _keys(grants: Sequence[Grant], restrictions: Restrictions) -> Iterator[Pattern]:
    """Yield the patterns of keys that have all bound captures, with their values."""
    for grant in grants:
        for pattern in grant.keys:
            bound = bound_pattern(pattern, restrictions.bind)
            if bound is not None:
                yield bound


def literal_start(glob: bytes) -> bytes:
    """Return the text of a glob before its first special character."""
    return re.split(rb"[*?\[\\]", glob, maxsplit=1)[0]


def refused_by_token(trace: Trace, code: ReplyCode, **details: bytes | str) -> Decision:
    """Return a denial by the restrictions of the token, and note it."""
    trace.append(RestrictionStep(code=code))
    return refused(code, **details, by="token")
