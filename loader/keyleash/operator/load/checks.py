"""Checks of the server before an activation."""

from __future__ import annotations

from dataclasses import dataclass

from redis.exceptions import ResponseError

from keyleash.errors import EvictionError, Problem, Span, UnvalidatedRestoreError
from keyleash.policy import Policy
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.store.server import info_section
from keyleash.store.server_check import PAYLOAD_ADVICE, Client, find_payload_risk

RESTORE_CODE = UnvalidatedRestoreError.code


def restoring_identities(policy: Policy) -> tuple[str, ...]:
    """Return the names of the identities that may RESTORE."""
    return tuple(
        identity.name
        for identity in policy.identities
        if any(grant.allows_restore for grant in identity.grants)
    )


def check_payloads(
    client: Client, policy: Policy, file: str, *, allowed: bool
) -> tuple[Problem, ...]:
    """Reject a policy that allows RESTORE on a server that does not validate payloads.

    The server is only read if the policy allows RESTORE.

    Args:
        file: The policy file's name; the warning applies to the whole file.
        allowed: Whether to warn instead.

    Raises:
        UnvalidatedRestoreError: An identity may RESTORE, the server does not validate payloads or
            does not report it, and *allowed* is false.
    """
    names = restoring_identities(policy)
    risk = find_payload_risk(client) if names else None
    if risk is None:
        return ()
    message = f"{listing(names, SHOWN_IDENTITIES)} may RESTORE, and {risk.message}"
    if not allowed:
        raise UnvalidatedRestoreError(
            message, help=f"{PAYLOAD_ADVICE}; `allow_unvalidated_restore=True` loads without it"
        )
    return (Problem(RESTORE_CODE, message, Span(file, 1, 1), PAYLOAD_ADVICE),)


SAFE = "noeviction"
EVICTION_ADVICE = f"set `maxmemory-policy {SAFE}`"
EVICTION_CODE = EvictionError.code


@dataclass(frozen=True, slots=True)
class EvictionRisk:
    """The risk that a server evicts control keys.

    Attributes:
        policy: Its `maxmemory-policy`, other than `noeviction`; None if unknown.
        has_bound: Whether `maxmemory` is set: without it, nothing is evicted.
        reason: Why the policy is unknown.
    """

    policy: str | None
    has_bound: bool = False
    reason: str = ""

    @property
    def message(self) -> str:
        """The consequence, in a sentence."""
        if self.policy is None:
            return f"cannot determine whether the server evicts keys: {self.reason}"
        # Token records and counters per token or segment expire; states do not.
        lost = (
            "token records, and counters per token or segment, which then start at 0"
            if self.policy.startswith("volatile-")
            else "states, tokens and events, so that limits are lost and agents denied"
        )
        when = "when its memory is full" if self.has_bound else "once a `maxmemory` is set"
        return f"with `maxmemory-policy {self.policy}` the server evicts, {when}, {lost}"


def find_eviction_risk(client: Client) -> EvictionRisk | None:
    """Return the eviction risk of a server; None if it evicts nothing.

    Uses INFO, because managed servers may deny CONFIG.
    """
    try:
        memory = info_section(client, "memory")
    except ResponseError as error:
        return EvictionRisk(None, reason=str(error))
    policy = memory.get("maxmemory_policy")
    if policy is None:
        return EvictionRisk(None, reason="INFO does not report it")
    if policy == SAFE:
        return None
    # An unreported `maxmemory` may be set.
    return EvictionRisk(str(policy), has_bound=memory.get("maxmemory") != 0)


def check_eviction(client: Client, file: str, *, allowed: bool) -> tuple[Problem, ...]:
    """Warn about or reject a server that evicts keys.

    Args:
        file: The policy file's name; the warning applies to the whole file.
        allowed: Whether to warn instead.

    Raises:
        EvictionError: `maxmemory` is set, control keys may be evicted, and *allowed* is false.
    """
    risk = find_eviction_risk(client)
    if risk is None:
        return ()
    if risk.has_bound and not allowed:
        raise EvictionError(
            risk.message, help=f"{EVICTION_ADVICE}; `allow_eviction=True` loads anyway"
        )
    return (Problem(EVICTION_CODE, risk.message, Span(file, 1, 1), EVICTION_ADVICE),)
