"""The limits, tokens and denials of each identity."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from keyleash.audit import read_denials
from keyleash.audit.read import Query, read_folded
from keyleash.errors import UnexpectedReplyError
from keyleash.fence.record import FenceRecord, read_records
from keyleash.limits import COUNTS, LimitState, SlotKind
from keyleash.operator.load.plan import batches
from keyleash.operator.suspension import Suspension, suspension_of
from keyleash.operator.tokens import TokenInfo, TokenState, read_known, token_info
from keyleash.policy import Identity, Limit, Policy, SubjectKind, parse_policy
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import ActivePolicy, Client
from keyleash.store.server_check import operator_client
from keyleash.store.state import IdentityState, Layout, unpack_state
from keyleash.store.token import TokenRecord


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One limit, as people look at it.

    Attributes:
        name: Its name in denials.
        kind: How it counts.
        allows: The limit in words: `600 a minute, at most 60 at once`.
        used: Calls counted in the window that is open, or None for a limit that counts
            each token or captured segment apart. With a burst, what is not yet free again.
        of: What `used` may reach.
        resets_ms: When the window ends, for a budget that has counted something.
        per: Who shares the counter.
    """

    name: str
    kind: SlotKind
    allows: str
    used: int | None
    of: int
    resets_ms: int | None
    per: str

    @property
    def share(self) -> float | None:
        """The used part of it, from 0 to 1; None where that is not one number."""
        return None if self.used is None else min(1.0, self.used / self.of)


def limit_uses(identity: Identity, state: IdentityState | None, now_us: int) -> list[LimitUse]:
    """
    The limits of *identity*, in the order in which its guard checks them.

    Args:
        identity: From the active policy.
        state: Its state, or None if it has none.
        now_us: Server time.
    """
    held = {} if state is None else {item.slot.name: item for item in state.limits}
    return [_use(limit, held.get(limit.name), now_us) for limit in identity.limits]


def _use(limit: Limit, held: LimitState | None, now_us: int) -> LimitUse:
    used, resets_us = None, None
    if held is not None and held.is_corrupt:
        # It denies every call that counts towards it.
        used = limit.at_once
    elif limit.subject.kind is SubjectKind.IDENTITY:
        used, resets_us = COUNTS[limit.kind].used(held, now_us) if held else (0, None)
    return LimitUse(
        name=limit.name,
        kind=limit.kind,
        allows=limit.describe(),
        used=used,
        of=limit.at_once,
        resets_ms=None if resets_us is None else resets_us // 1000,
        per=f"{{{limit.subject.capture}}}" if limit.subject.capture else str(limit.subject.kind),
    )


RECENT_S = 300
"""The age up to which a denial is recent."""


@dataclass(slots=True)
class Refusals:
    """
    The recent denials of one code.

    Attributes:
        count: Calls that were refused. What is refused alike within a minute counts as of the
            first time, since that is what is recorded.
        last_ms: When a denial was last recorded, server time.
    """

    count: int = 0
    last_ms: int = 0


def read_recent_refusals(
    client: Client, keyspace: Keyspace, identities: Sequence[str], now_ms: int
) -> dict[str, dict[str, Refusals]]:
    """Return denials by identity and code; identities without any are left out."""
    since_ms = max(0, now_ms - RECENT_S * 1000)
    found: dict[str, dict[str, Refusals]] = defaultdict(lambda: defaultdict(Refusals))
    some = _refused(client, keyspace, identities, since_ms)
    for denial in read_denials(client, keyspace, some, Query(since_ms=since_ms)):
        refusals = found[denial.identity][denial.code]
        refusals.count += denial.repeats
        refusals.last_ms = max(refusals.last_ms, denial.time_ms)
    return {name: dict(by_code) for name, by_code in found.items()}


def _refused(
    client: Client, keyspace: Keyspace, identities: Sequence[str], since_ms: int
) -> list[str]:
    """Those who have anything recent: of the others nothing need be read."""
    with client.pipeline(transaction=False) as pipe:
        for name in identities:
            pipe.xrevrange(keyspace.denied(name), "+", since_ms, count=1)
        replies = pipe.execute() if identities else []
    return [name for name, newest in zip(identities, replies, strict=True) if newest]


@dataclass(frozen=True, slots=True)
class OldestToken:
    """
    The live token that was issued first.

    Attributes:
        issued_ms: Server time, Unix milliseconds.
        is_due: Whether it ought to have been rotated; one that was rotated is not due.
    """

    id: str
    issued_ms: int
    is_due: bool


@dataclass(frozen=True, slots=True)
class TokenCount:
    """
    The live tokens of an identity.

    Attributes:
        live: How many there are.
        due: How many of them ought to have been rotated by the policy's `rotate_after`.
        oldest: None if there is none.
    """

    live: int = 0
    due: int = 0
    oldest: OldestToken | None = None


def read_token_counts(
    client: Client, keyspace: Keyspace, identities: Sequence[Identity], now_ms: int
) -> Iterator[TokenCount]:
    """
    Count the live tokens of each identity, in their order; nothing is written.

    Args:
        client: An operator's client, `decode_responses` off.
        keyspace: Where the control keys are.
        identities: From the active policy.
        now_ms: Server time, Unix milliseconds.
    """
    known = _known(client, keyspace, identities)
    with client.pipeline(transaction=False) as pipe:
        for identity, tokens in zip(identities, known, strict=True):
            if tokens:
                pipe.mget(
                    [keyspace.token(identity.name, token["digest"]) for token in tokens.values()]
                )
        replies = iter(pipe.execute() if any(known) else ())
    for identity, tokens in zip(identities, known, strict=True):
        packed = next(replies) if tokens else ()
        if len(packed) != len(tokens):
            raise UnexpectedReplyError("MGET")
        infos = [
            token_info(
                token_id,
                identity.name,
                tokens[token_id],
                TokenRecord.unpack(record),
                identity.token,
                now_ms * 1000,
            )
            for token_id, record in zip(tokens, packed, strict=True)
            if record is not None
        ]
        yield _count([info for info in infos if info.state is TokenState.LIVE], now_ms)


def _known(
    client: Client, keyspace: Keyspace, identities: Sequence[Identity]
) -> list[dict[str, Mapping[str, Any]]]:
    with client.pipeline(transaction=False) as pipe:
        for identity in identities:
            pipe.hgetall(keyspace.tokens(identity.name))
        replies = pipe.execute() if identities else []
    return [
        read_known(identity.name, item) for identity, item in zip(identities, replies, strict=True)
    ]


def _count(live: Sequence[TokenInfo], now_ms: int) -> TokenCount:
    if not live:
        return TokenCount()
    oldest = min(live, key=lambda item: item.issued_ms)
    return TokenCount(
        live=len(live),
        due=sum(item.is_due(now_ms) for item in live),
        oldest=OldestToken(oldest.id, oldest.issued_ms, oldest.is_due(now_ms)),
    )


COOPERATIVE = "cooperative"


@dataclass(frozen=True, slots=True)
class IdentityStatus:
    """
    One identity of the active policy, as it stands.

    Attributes:
        active: Whether it has its state; without one every call is denied.
        tier: `cooperative`, `fenced` or `sealed`.
        tokens: Those that are live.
        events: The number of the newest event of its audit stream; 0 if there is none.
        audit_length: Entries in its audit stream.
        denied_length: Stored entries of denials.
        refusals: The recent denials, by code.
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
    """The stored data of an identity."""

    state: IdentityState | None
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
    names = [item.name for item in identities]
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
        _status(identity, item, count, now_ms, refusals, folded, records)
        for identity, item, count in zip(identities, held, tokens, strict=True)
    ]


@lru_cache(maxsize=2)
def document_policy(document: str) -> Policy:
    """Parse the active policy; the cache serves processes that poll."""
    return parse_policy(document, file="<active policy>", commands=None)


def read_states(
    client: Client, keyspace: Keyspace, names: Sequence[str]
) -> Iterator[tuple[IdentityState | None, bytes]]:
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


def _state(packed: bytes | None, layout: bytes | None) -> IdentityState | None:
    if packed is None or layout is None:
        return None
    try:
        return unpack_state(packed, Layout.from_json(layout))
    except struct.error:
        # Shorter than its layout: an agent wrote to it. The guard denies every call as well.
        return None


def _status(
    identity: Identity,
    held: _Held,
    tokens: TokenCount,
    now_ms: int,
    refusals: Mapping[str, Mapping[str, Refusals]],
    folded: Mapping[str, int],
    records: Mapping[str, FenceRecord],
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
