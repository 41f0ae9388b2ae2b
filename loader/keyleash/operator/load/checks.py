"""Checks of the server before an activation."""

from __future__ import annotations

from dataclasses import dataclass

from redis.exceptions import ResponseError

from keyleash.errors import EvictionError, Problem, Span, UnvalidatedRestoreError
from keyleash.policy import Policy
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.store.records import Client
from keyleash.store.server_check import PAYLOAD_ADVICE, find_payload_risk

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
    """
    Reject a policy that allows RESTORE on a server that does not validate payloads.

    A server is only asked about a policy that allows RESTORE.

    Args:
        client: The server's.
        policy: The policy.
        file: The policy file's name; the warning is about all of it.
        allowed: Whether to warn instead.

    Raises:
        UnvalidatedRestoreError: An identity may RESTORE, the server does not validate payloads
            or does not say, and that was not allowed.
    """
    names = restoring_identities(policy)
    risk = find_payload_risk(client) if names else None
    if risk is None:
        return ()
    message = f"{listing(names, SHOWN_IDENTITIES)} may RESTORE, and {risk.message}"
    if not allowed:
        raise UnvalidatedRestoreError(
            message, help=f"{PAYLOAD_ADVICE}; `--allow-unvalidated-restore` loads without it"
        )
    return (Problem(RESTORE_CODE, message, Span(file, 1, 1), PAYLOAD_ADVICE),)


SAFE = "noeviction"
EVICTION_ADVICE = f"set `maxmemory-policy {SAFE}`"
EVICTION_CODE = EvictionError.code


@dataclass(frozen=True, slots=True)
class EvictionRisk:
    """
    What a server would evict.

    Attributes:
        policy: Its `maxmemory-policy`, any but `noeviction`; None if it does not say.
        has_bound: Whether `maxmemory` is set: without it, nothing is ever evicted.
        reason: Why the server does not say.
    """

    policy: str | None
    has_bound: bool = False
    reason: str = ""

    @property
    def message(self) -> str:
        """What may happen, in a sentence."""
        if self.policy is None:
            return f"cannot tell whether the server evicts keys: {self.reason}"
        # Token records and counters per token or segment are keys that expire; states are none.
        lost = (
            "token records, and counters per token or segment, which then start anew"
            if self.policy.startswith("volatile-")
            else "states, tokens and events, so that limits are forgotten and agents refused"
        )
        when = "when its memory is full" if self.has_bound else "once a `maxmemory` is set"
        return f"with `maxmemory-policy {self.policy}` the server evicts, {when}, {lost}"


def find_eviction_risk(client: Client) -> EvictionRisk | None:
    """
    Ask a server for its `maxmemory-policy`; None if it evicts nothing.

    By INFO, which managed servers answer where they refuse CONFIG.
    """
    try:
        memory = client.info("memory")
    except ResponseError as error:
        return EvictionRisk(None, reason=str(error))
    policy = memory.get("maxmemory_policy")
    if policy is None:
        return EvictionRisk(None, reason="INFO does not say")
    if policy == SAFE:
        return None
    # What is not told may well be set.
    return EvictionRisk(str(policy), has_bound=memory.get("maxmemory") != 0)


def check_eviction(client: Client, file: str, *, allowed: bool) -> tuple[Problem, ...]:
    """
    Warn of a server that evicts keys, or refuse it.

    Args:
        client: The server's.
        file: The policy file's name; the warning is about all of it.
        allowed: Whether also a server that evicts keys is to do.

    Raises:
        EvictionError: a `maxmemory` is set, keyleash's own keys may be evicted, and that
            was not allowed.
    """
    risk = find_eviction_risk(client)
    if risk is None:
        return ()
    if risk.has_bound and not allowed:
        raise EvictionError(
            risk.message, help=f"{EVICTION_ADVICE}; `--allow-eviction` loads all the same"
        )
    return (Problem(EVICTION_CODE, risk.message, Span(file, 1, 1), EVICTION_ADVICE),)
