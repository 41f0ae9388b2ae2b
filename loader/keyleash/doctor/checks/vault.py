"""Whether a change of prefixes was left half done."""

from __future__ import annotations

from keyleash.doctor.finding import Finding, Severity
from keyleash.protocol.sealed import PrefixChange

CODE = "vault-half-changed"


def half_changed(change: PrefixChange) -> Finding:
    """A change that is under way, or was interrupted."""
    kind = change.kind.value
    if change.is_switched:
        message = (
            f"`keyleash vault {kind}` is under way or was interrupted: agents are suspended, and"
            " keys are in two places"
        )
    else:
        message = (
            f"`keyleash vault {kind}` was begun and moved nothing yet; the prefixes of before are"
            " in force"
        )
    return Finding(
        CODE,
        Severity.ERROR if change.is_switched else Severity.WARNING,
        message,
        f"let it finish, or run `keyleash vault {kind}` again: it goes on where it was",
    )
