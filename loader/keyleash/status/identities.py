"""How the identities of the active policy stand: their state, tokens, trails and limits."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from keyleash.audit.repeats import read_folded
from keyleash.deploy.standing import batches
from keyleash.deploy.suspension import Suspension, suspension_of
from keyleash.fence.record import Record, read_records
from keyleash.policy import Identity, Policy, parse_policy
from keyleash.protocol.active import ActivePolicy, Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client
from keyleash.protocol.state import Layout, State, unpack_state
from keyleash.status.refusals import Refusals, read_recent_refusals
from keyleash.status.tokens import TokenCount, read_token_counts
from keyleash.status.usage import LimitUse, limit_uses

COOPERATIVE = "cooperative"


@dataclass(frozen=True, slots=True)
class IdentityStatus:
    """
    One identity of the active policy, as it stands.

    Attributes:
        active: Whether it has its state; without one every call is refused.
        tier: `cooperative`, `fenced` or `sealed`.
        tokens: Those that are live.
        events: The number of the newest event of its trail; 0 if there is none.
        audit_length: Entries in its trail.
        denied_length: Entries of refusals that are kept.
        refusals: The recent ones, by code.
        suspension: Why it is suspended; None if it is not.
        folded: Denials that have no entry of their own: they are counted with the first of
            their kind.
    """

    name: str
    kind: str
    active: bool
    tier: str
    tokens: TokenCount
    events: int
    audit_length: int
    denied_length: int
    limits: list[LimitUse]
    refusals: Mapping[str, Refusals] = field(default_factory=dict)
    suspension: Suspension | None = None
    folded: int = 0

    @property
    def live_tokens(self) -> int:
        return self.tokens.live

    @property
    def suspended(self) -> bool:
        return self.suspension is not None

    @property
    def word(self) -> str:
        """Its state in a word."""
        if not self.active:
            return "NO STATE"
        return "SUSPENDED" if self.suspended else "active"


@dataclass(frozen=True, slots=True)
class _Held:
    """What the server has of an identity."""

    state: State | None
    audit_length: int
    denied_length: int
    suspension: Mapping[bytes, bytes]


def identity_statuses(
    client: Client, keyspace: Keyspace, active: ActivePolicy, now_ms: int
) -> list[IdentityStatus]:
    """
    The identities of the *active* policy, as they stand at *now_ms* of the server's clock.

    Nothing is written; a user who may read the control keys may do it.
    """
    client = operator_client(client)
    identities = document_policy(active.document).identities
    names = [one.name for one in identities]
    held = list(_read_held(client, keyspace, names))
    tokens = [
        count
        for some in batches(identities)
        for count in read_token_counts(client, keyspace, some, now_ms)
    ]
    refusals = read_recent_refusals(client, keyspace, names, now_ms)
    folded = {
        name: count
        for some in batches(names)
        for name, count in read_folded(client, keyspace, some).items()
    }
    records = read_records(client, keyspace)
    return [
        _status(identity, one, count, now_ms, refusals, folded, records)
        for identity, one, count in zip(identities, held, tokens, strict=True)
    ]


@lru_cache(maxsize=2)
def document_policy(document: str) -> Policy:
    """The policy that a server says is active; who looks again and again reads it once."""
    return parse_policy(document, file="<active policy>", commands=None)


def read_states(
    client: Client, keyspace: Keyspace, names: Sequence[str]
) -> Iterator[tuple[State | None, bytes]]:
    """
    The states of identities in their order, unpacked, and as they are.

    A state is None if there is none, or it is shorter than its layout.
    """
    layouts = client.hgetall(keyspace.layouts)
    for some in batches(names):
        with client.pipeline(transaction=False) as pipe:
            for name in some:
                pipe.get(keyspace.state(name))
            for name, packed in zip(some, pipe.execute(), strict=True):
                yield _state(packed, layouts.get(name.encode())), packed or b""


def _read_held(client: Client, keyspace: Keyspace, names: Sequence[str]) -> Iterator[_Held]:
    states = read_states(client, keyspace, names)
    for some in batches(names):
        with client.pipeline(transaction=False) as pipe:
            for name in some:
                pipe.xlen(keyspace.audit(name))
                pipe.xlen(keyspace.denied(name))
                pipe.hgetall(keyspace.suspension(name))
            replies = iter(pipe.execute())
        for _ in some:
            state, _packed = next(states)
            yield _Held(state, next(replies), next(replies), next(replies))


def _state(packed: bytes | None, layout: bytes | None) -> State | None:
    if packed is None or layout is None:
        return None
    try:
        return unpack_state(packed, Layout.from_json(layout))
    except struct.error:
        # Shorter than its layout: somebody wrote to it. The guard fails on it as well.
        return None


def _status(
    identity: Identity,
    held: _Held,
    tokens: TokenCount,
    now_ms: int,
    refusals: Mapping[str, Mapping[str, Refusals]],
    folded: Mapping[str, int],
    records: Mapping[str, Record],
) -> IdentityStatus:
    name, state = identity.name, held.state
    return IdentityStatus(
        name=name,
        kind=str(identity.kind),
        active=state is not None,
        tier=str(records[name].tier) if name in records else COOPERATIVE,
        tokens=tokens,
        events=0 if state is None else state.sequence,
        audit_length=held.audit_length,
        denied_length=held.denied_length,
        limits=limit_uses(identity, state, now_ms * 1000),
        refusals=refusals.get(name, {}),
        suspension=suspension_of(state, held.suspension, now_ms),
        folded=folded[name],
    )
