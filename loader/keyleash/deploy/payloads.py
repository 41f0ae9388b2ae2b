"""Policies that allow RESTORE, and servers that do not validate its payloads."""

from __future__ import annotations

from keyleash.errors import Problem, Span, UnvalidatedRestoreError
from keyleash.policy import Policy
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.policy.reach import gives_restore
from keyleash.protocol.active import Client
from keyleash.protocol.payloads import ADVICE, find_payload_risk

CODE = UnvalidatedRestoreError.code


def restoring_identities(policy: Policy) -> tuple[str, ...]:
    """Return the names of the identities that may RESTORE."""
    return tuple(
        identity.name for identity in policy.identities if any(map(gives_restore, identity.grants))
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
            message, help=f"{ADVICE}; `--allow-unvalidated-restore` loads without it"
        )
    return (Problem(CODE, message, Span(file, 1, 1), ADVICE),)
