"""Which policies and tokens were in force in some time, and what operators did in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from keyleash.audit.control import (
    ControlEvent,
    PolicyUse,
    in_sequence,
    policy_use,
    read_control,
)
from keyleash.audit.query import Query
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client
from keyleash.tokens import TokenInfo, list_tokens

MAX_DEEDS = 200
"""So many of the last things that operators did are kept."""


@dataclass(frozen=True, slots=True)
class TokenUse:
    """
    A token that could be used.

    Attributes:
        issued_ms: Unix milliseconds; None if nobody knows any more.
        expires_ms: Likewise.
        revoked_ms: Likewise; None also if it was not revoked.
        note: What its issuer wrote.
    """

    id: str
    identity: str
    issued_ms: int | None = None
    issued_by: str = ""
    expires_ms: int | None = None
    revoked_ms: int | None = None
    revoked_by: str = ""
    note: str = ""

    def is_in_force(self, since_ms: int, until_ms: int) -> bool:
        """Whether it was, at any moment from *since_ms* to *until_ms*."""
        ends = [end for end in (self.expires_ms, self.revoked_ms) if end is not None]
        # Of a token that nobody knows any more, the end is long ago.
        is_known = self.issued_ms is not None and self.expires_ms is not None
        return is_known and (self.issued_ms or 0) <= until_ms and min(ends) >= since_ms


@dataclass(slots=True)
class Standing:
    """
    What held in some time.

    Attributes:
        policies: Those in force, the oldest first.
        tokens: Those in force or used, the newest first.
        deeds: What operators did, the oldest first.
        further_deeds: How many there were before these.
    """

    policies: list[PolicyUse] = field(default_factory=list)
    tokens: list[TokenUse] = field(default_factory=list)
    deeds: list[ControlEvent] = field(default_factory=list)
    further_deeds: int = 0


def read_standing(
    client: Client,
    keyspace: Keyspace,
    identities: Collection[str] | None,
    since_ms: int,
    until_ms: int,
    used: Collection[tuple[str, str]] = (),
) -> Standing:
    """
    Read what held from *since_ms* to *until_ms*, Unix milliseconds.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        identities: Only what is about one of them; None for all.
        since_ms: Server time.
        until_ms: Server time.
        used: Identity and id of tokens to tell of whether they were in force or not.
    """
    client = operator_client(client)
    listed = [
        info
        for info in list_tokens(client, keyspace=keyspace)
        if identities is None or info.identity in identities
    ]
    tokens = {(info.identity, info.id): _known(info) for info in listed}
    activations: list[PolicyUse] = []
    deeds: deque[ControlEvent] = deque(maxlen=MAX_DEEDS)
    count = 0
    for event in read_control(client, keyspace, identities, Query(until_ms=until_ms)):
        if event.event == "activate":
            activations.append(policy_use(event))
        _take_in(tokens, event)
        if event.time_ms >= since_ms:
            deeds.append(event)
            count += 1
    for identity, token in used:
        tokens.setdefault((identity, token), TokenUse(token, identity))
    return Standing(
        policies=[one for one in in_sequence(activations) if _overlaps(one, since_ms)],
        tokens=sorted(
            (
                one
                for place, one in tokens.items()
                if place in used or one.is_in_force(since_ms, until_ms)
            ),
            key=lambda one: one.issued_ms or 0,
            reverse=True,
        ),
        deeds=list(deeds),
        further_deeds=count - len(deeds),
    )


def _known(info: TokenInfo) -> TokenUse:
    return TokenUse(
        id=info.id,
        identity=info.identity,
        issued_ms=info.issued_ms,
        issued_by=info.by,
        expires_ms=info.expires_ms,
        note=info.note,
    )


def _take_in(tokens: dict[tuple[str, str], TokenUse], event: ControlEvent) -> None:
    """What the control stream says of tokens: all that is left of those that are forgotten."""
    place = event.details.get("identity", ""), event.details.get("token", "")
    known = tokens.get(place, TokenUse(place[1], place[0]))
    match event.event:
        case "issue" if known.issued_ms is None:
            tokens[place] = replace(known, issued_ms=event.time_ms, issued_by=event.actor)
        case "revoke":
            tokens[place] = replace(known, revoked_ms=event.time_ms, revoked_by=event.actor)


def _overlaps(policy: PolicyUse, since_ms: int) -> bool:
    return policy.until_ms is None or policy.until_ms >= since_ms
