"""Whether a server validates the payloads of RESTORE."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.deploy.payloads import CODE, restoring_identities
from keyleash.doctor.finding import Finding, Said, Severity, Skipped
from keyleash.doctor.patient import Deployment, Server
from keyleash.doctor.words import named
from keyleash.protocol.payloads import ADVICE, find_payload_risk

__all__ = ["CODE", "check_payloads"]


def check_payloads(deployment: Deployment, server: Server, *, are_fenced: bool) -> Iterator[Said]:
    """
    Read `sanitize-dump-payload`; it is an error where an identity may RESTORE.

    Args:
        deployment: The deployment.
        server: One of its servers.
        are_fenced: Whether agents have ACL users, which may write to their own audit streams
            unless the server is sealed.
    """
    risk = find_payload_risk(server.client)
    if risk is None:
        return
    if risk.setting is None:
        yield Skipped("payload validation", risk.message, server.name)
        return
    policy = deployment.policy
    names = () if policy is None else restoring_identities(policy)
    if names:
        message = f"{named(names)} may RESTORE, and {risk.message}"
        yield Finding(CODE, Severity.ERROR, message, ADVICE, server.name)
        return
    can_forge = are_fenced and not deployment.seal.keyspace.vault
    yield Finding(
        CODE,
        Severity.WARNING if can_forge else Severity.ADVICE,
        risk.message,
        f"{ADVICE}: a fenced agent can write false before-images to its own audit stream, so until"
        " then `undo` and `audit as-of` do not restore those of fenced agents",
        server.name,
    )
