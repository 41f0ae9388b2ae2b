"""
Before-images that are not restored, since they might crash the server.

A fenced agent can append an event with a corrupt payload to the audit stream of its identity.
A server that does not validate payloads stores it, and aborts when it reads the key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keyleash.audit.event import Held
from keyleash.errors import UnvalidatedRestoreError
from keyleash.fence.record import read_forgeable
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import OPERATORS, Keyspace
from keyleash.protocol.payloads import SETTING, PayloadRisk, find_payload_risk

Recorded = tuple[str, Held]
"""An identity, and a before-image of its audit stream."""

HELP = (
    f"`CONFIG SET {SETTING} yes` takes effect at once, and `CONFIG REWRITE` saves it;"
    " then run this again"
)


@dataclass(frozen=True, slots=True)
class Withheld:
    """
    Before-images that are not restored.

    Attributes:
        images: Which. What the stream of another identity has as well is not among them.
        identities: Whose agents may have made them up.
        risk: What the server does not validate; None if there are no such images.
    """

    images: frozenset[Held] = frozenset()
    identities: tuple[str, ...] = ()
    risk: PayloadRisk | None = None

    def error(self, what: str) -> UnvalidatedRestoreError:
        """Return the error that *what* is not restored."""
        names = ", ".join(f"`{name}`" for name in self.identities)
        risk = self.risk.message if self.risk else ""
        return UnvalidatedRestoreError(
            f"{what} is not restored: {risk}; an agent of {names} may have made it up", help=HELP
        )


def find_withheld(client: Client, keyspace: Keyspace, images: Iterable[Recorded]) -> Withheld:
    """
    Find the before-images that must not be restored.

    The server is asked only if there are payloads; a string's bytes are none.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        images: Before-images, and the identities in whose streams they are.
    """
    payloads = {one for one in images if one[1][0] != "value" and one[0] != OPERATORS}
    risk = find_payload_risk(client) if payloads else None
    if risk is None:
        return Withheld()
    forgeable = read_forgeable(client, keyspace, sorted({identity for identity, _ in payloads}))
    trusted = {held for identity, held in payloads if identity not in forgeable}
    withheld = frozenset(held for _, held in payloads) - trusted
    names = {identity for identity, held in payloads if held in withheld}
    return Withheld(withheld, tuple(sorted(names)), risk) if withheld else Withheld()
