"""Whether a server validates the payloads that it is given to restore."""

from __future__ import annotations

from dataclasses import dataclass

from redis.exceptions import ResponseError

from keyleash.protocol.active import Client

SETTING = "sanitize-dump-payload"
ADVICE = f"set `{SETTING} yes`"


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
