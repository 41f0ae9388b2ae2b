"""The rules that a cluster cannot keep."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.errors import Problem
from keyleash.limits import Counter, Limit, Rate
from keyleash.limits.caps import CAP_COUNTERS
from keyleash.policy.model import Capture, Identity, Literal, Pattern, Policy
from keyleash.policy.patterns import NOWHERE


def cluster_problems(policy: Policy) -> Iterator[Problem]:
    """Yield the counts that guards of a cluster cannot make exactly.

    A counter per segment is in the slot of the key, so the segment must be the key's hash tag.
    """
    for identity in policy.identities:
        for limit in identity.limits:
            yield from _problems_of(identity, limit)


def _problems_of(identity: Identity, limit: Limit) -> Iterator[Problem]:
    span = limit.span or NOWHERE
    # A script cannot wait for units in the middle.
    is_counted = not isinstance(limit, Rate) and limit.counter is Counter.BYTES_WRITTEN
    if limit.counter.is_bytes and (identity.scripts or not is_counted):
        why = (
            "which has scripts"
            if is_counted
            else "of bytes it counts only `budget: {bytes_written: …}`"
        )
        yield Problem(
            "cluster-bytes",
            f"a cluster does not support `{limit.name}` of `{identity.name}`, {why}",
            span,
            f"leave it out, or limit calls by `{limit.counter.calls}`",
        )
    capture = limit.subject.capture
    patterns = {
        pattern.source: pattern
        for grant in identity.grants
        for pattern in grant.keys
        if capture in pattern.captures
    }
    for source, pattern in patterns.items():
        if not _is_hash_tag(pattern, capture):
            yield Problem(
                "cluster-subject",
                f"`{limit.name}` of `{identity.name}` counts per `{{{capture}}}`, which is not the"
                f" hash tag of keys that match `{source}`",
                span,
                f"write the segment as the first hash tag: `{{{{{{{capture}}}}}}}`",
            )


def cap_counters(identity: Identity, *, is_cluster: bool) -> list[Counter]:
    """Return the counters of caps that tokens of the identity may have."""
    is_uncounted = {Counter.BYTES_READ: True, Counter.BYTES_WRITTEN: bool(identity.scripts)}
    return [item for item in CAP_COUNTERS if not (is_cluster and is_uncounted.get(item))]


def _is_hash_tag(pattern: Pattern, capture: str | None) -> bool:
    """Return whether the capture is the first hash tag of every key that matches.

    A capture before it could have braces of its own.
    """
    match pattern.parts:
        case (Literal(before), Capture(name), Literal(after), *_):
            opens = before.find(b"{") == len(before) - 1
            return name == capture and opens and after.startswith(b"}")
        case _:
            return False
