"""Whether a server validates the payloads of RESTORE."""

from __future__ import annotations

from dataclasses import dataclass

from redis.exceptions import ResponseError

from keyleash.errors import Problem, Span, UnvalidatedRestoreError
from keyleash.policy import Policy
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.policy.reach import gives_restore
from keyleash.protocol.active import Client

SETTING = "sanitize-dump-payload"
ADVICE = f"set `{SETTING} yes`"
CODE = UnvalidatedRestoreError.code


@dataclass(frozen=True, slots=True)
class PayloadRisk:
    """
    Why a server may store a corrupt payload.

    Attributes:
        setting: Its `sanitize-dump-payload`, any but `yes`; None if it cannot be read.
        reason: Why it cannot be read.
    """

    setting: str | None
    reason: str = ""

    @property
    def message(self) -> str:
        """The risk as a sentence."""
        if self.setting is None:
            return f"cannot tell whether the server validates payloads of RESTORE: {self.reason}"
        whose = " of users with `skip-sanitize-payload`" if self.setting == "clients" else ""
        return (
            f"with `{SETTING} {self.setting}` the server stores payloads of RESTORE{whose} without"
            " validation, and a corrupt one can crash it"
        )


def find_payload_risk(client: Client) -> PayloadRisk | None:
    """Read `sanitize-dump-payload`; None if the server validates every payload."""
    try:
        setting = client.config_get(SETTING).get(SETTING)
        if setting is None and "valkey_version" in client.info("server"):
            # Valkey had the setting from its start. Releases without it always validate.
            return None
    except ResponseError as error:
        return PayloadRisk(None, reason=str(error))
    if setting is None:
        return PayloadRisk(None, reason=f"it has no setting `{SETTING}`")
    return None if setting == "yes" else PayloadRisk(str(setting))


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
