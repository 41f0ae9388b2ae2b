"""When the leases of a node end that no operator reaches."""

from __future__ import annotations

from collections.abc import Collection

from redis.exceptions import ResponseError

from keyleash.errors import KeyleashError
from keyleash.policy.model import MAX_LEASE_S
from keyleash.store.records import ActivePolicy, read_history
from keyleash.store.scripts import KEPT_POLICIES
from keyleash.store.store import Store

MAX_LEASE_US = MAX_LEASE_S * 1_000_000


def latest_end_us(store: Store, identities: Collection[str] | None, now_us: int) -> int:
    """Return when all leases of identities have ended that were granted until *now_us*.

    Leases of an earlier policy live as it set. If their history cannot be read, leases are as
    long as any may be.

    Args:
        store: The home.
        identities: Their names; None for all.
        now_us: The clock of the home.
    """
    try:
        history = read_history(store)
        latest_us = replaced_us = now_us
        for policy in history:
            if replaced_us + MAX_LEASE_US <= now_us:
                return latest_us
            latest_us = max(latest_us, replaced_us + _longest_us(policy, identities))
            replaced_us = policy.activated_ms * 1000
    except (ResponseError, KeyleashError):
        return now_us + MAX_LEASE_US
    # What was active before the oldest stored policy is not known.
    return latest_us if len(history) < KEPT_POLICIES else max(latest_us, replaced_us + MAX_LEASE_US)


def _longest_us(policy: ActivePolicy, identities: Collection[str] | None) -> int:
    # Imported here: commands that read no policy, and help, do without its parser.
    from keyleash.policy import parse_policy  # noqa: PLC0415

    parsed = parse_policy(policy.document, file="<stored policy>", commands=None)
    lives_s = (
        item.cluster.lease_s
        for item in parsed.identities
        if identities is None or item.name in identities
    )
    return max(lives_s, default=0) * 1_000_000
