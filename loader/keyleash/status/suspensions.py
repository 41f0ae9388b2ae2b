"""Why identities are suspended, and until when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keyleash.deploy.standing import batches
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace


@dataclass(frozen=True, slots=True)
class Suspension:
    """
    What is recorded of a suspension.

    Attributes:
        since_ms: Server time, Unix milliseconds.
        until_ms: When it ends by itself; None if somebody has to end it.
        reason: Empty if none was given.
    """

    actor: str
    since_ms: int
    until_ms: int | None = None
    reason: str = ""


def read_suspensions(
    client: Client, keyspace: Keyspace, identities: Sequence[str]
) -> dict[str, Suspension]:
    """The suspension of each of *identities*, of those for whom one is recorded."""
    found = {}
    for some in batches(identities):
        with client.pipeline(transaction=False) as pipe:
            for name in some:
                pipe.hgetall(keyspace.suspension(name))
            for name, raw in zip(some, pipe.execute(), strict=True):
                if raw:
                    found[name] = _suspension(raw)
    return found


def _suspension(raw: dict[bytes, bytes]) -> Suspension:
    fields = {name.decode(): value.decode("utf-8", "replace") for name, value in raw.items()}
    return Suspension(
        actor=fields.get("by", ""),
        since_ms=_ms(fields.get("since_ms", "")) or 0,
        until_ms=_ms(fields.get("until_ms", "")),
        reason=fields.get("reason", ""),
    )


def _ms(text: str) -> int | None:
    # A fenced agent may write to the record of its own.
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
