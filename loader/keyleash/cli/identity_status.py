"""How the identities of the active policy stand: their state, tokens, trails and limits."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyleash.cli.settings import Settings

if TYPE_CHECKING:
    from keyleash.cli.usage import LimitUse
    from keyleash.deploy.suspension import Suspension
    from keyleash.protocol.active import ActivePolicy
    from keyleash.protocol.state import State


@dataclass(frozen=True)
class IdentityStatus:
    """
    One identity of the active policy, as it stands.

    Attributes:
        active: Whether it has its state; without one every call is refused.
        suspension: Why it is suspended; None if it is not.
        audit_length: Events in its trail.
        denied_length: Refusals that are kept.
    """

    name: str
    kind: str
    active: bool
    suspension: Suspension | None
    live_tokens: int
    audit_length: int
    denied_length: int
    limits: list[LimitUse]

    @property
    def word(self) -> str:
        """Its state in a word."""
        if not self.active:
            return "NO STATE"
        return "active" if self.suspension is None else "SUSPENDED"


def identity_statuses(
    settings: Settings, active: ActivePolicy, now_ms: int
) -> list[IdentityStatus]:
    """The identities of the *active* policy, as they stand at *now_ms* of the server's clock."""
    from keyleash.cli.usage import limit_uses
    from keyleash.deploy.suspension import suspension_of
    from keyleash.policy import parse_policy
    from keyleash.tokens import TokenState, list_tokens

    client, keyspace = settings.client, settings.keyspace
    policy = parse_policy(active.document, file="<active policy>", commands=None)
    live = Counter(
        info.identity
        for info in list_tokens(client, keyspace=keyspace)
        if info.state is TokenState.LIVE
    )
    layouts = client.hgetall(keyspace.layouts)
    with client.pipeline(transaction=False) as pipe:
        for identity in policy.identities:
            pipe.get(keyspace.state(identity.name))
            pipe.xlen(keyspace.audit(identity.name))
            pipe.xlen(keyspace.denied(identity.name))
            pipe.hgetall(keyspace.suspension(identity.name))
        replies = iter(pipe.execute())
    found = []
    for identity in policy.identities:
        state = _state(next(replies), layouts.get(identity.name.encode()))
        audit_length, denied_length, record = next(replies), next(replies), next(replies)
        found.append(
            IdentityStatus(
                name=identity.name,
                kind=str(identity.kind),
                active=state is not None,
                suspension=suspension_of(state, record, now_ms),
                live_tokens=live[identity.name],
                audit_length=audit_length,
                denied_length=denied_length,
                limits=limit_uses(identity, state, now_ms * 1000),
            )
        )
    return found


def _state(packed: bytes | None, layout: bytes | None) -> State | None:
    from keyleash.protocol.state import Layout, unpack_state

    if packed is None or layout is None:
        return None
    try:
        return unpack_state(packed, Layout.from_json(layout))
    except struct.error:
        # Shorter than its layout: somebody wrote to it. The guard fails on it as well.
        return None
