"""The limits, tokens and denials of each identity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from keyleash.addons.status.shards import ShardStatus, shard_status
from keyleash.audit.read import Query, Unlisted, read_denials, read_unlisted
from keyleash.limits import COUNTS, Limit, LimitState, SlotKind, SubjectKind
from keyleash.limits.counters import counter_of
from keyleash.operator.suspension import Suspension, suspension_of
from keyleash.operator.tokens.list import TokenInfo, TokenState, read_tokens
from keyleash.policy import Identity
from keyleash.policy.parse import active_policy
from keyleash.results import Instant, Result
from keyleash.store.records import ActivePolicy
from keyleash.store.shards import ShardRecords, read_shards
from keyleash.store.state import IdentityState
from keyleash.store.states import read_activity, read_states
from keyleash.store.store import Store, batches
from keyleash.store.streams import denied_streams, newest_entries
from keyleash.text import json_object


@dataclass(frozen=True, slots=True)
class LimitUse(Result):
    """A limit and its use.

    Attributes:
        name: Its name in denials.
        allows: Its description: `600 a minute, at most 60 at once`.
        used: Calls or bytes counted in the open window; of a rate with a burst, the part of the
            burst that is in use. None if tokens or captured segments are counted separately.
        of: The maximum of `used`.
        resets_ms: The end of the open window of a budget, if it has counted a call.
        per: The subject of a counter: `identity`, `token` or `{capture}`.
    """

    name: str
    kind: SlotKind
    allows: str
    used: int | None
    of: int
    resets_ms: int | None
    per: str

    resets_at = Instant["datetime | None"]()

    def to_dict(self) -> dict[str, Any]:
        return json_object(self, "name", "kind", "allows", "unit", "used", "of", "per", "resets_ms")

    @property
    def unit(self) -> str:
        """The unit of `used` and `of`: `calls` or `bytes`."""
        return "bytes" if counter_of(self.name).is_bytes else "calls"

    @property
    def share(self) -> float | None:
        """The used part, from 0 to 1; None if `used` is."""
        return None if self.used is None else min(1.0, self.used / self.of)


def limit_uses(identity: Identity, state: IdentityState | None, now_us: int) -> list[LimitUse]:
    """Return the use of an identity's limits, in the order in which its guard checks them."""
    stored = {} if state is None else {item.slot.name: item for item in state.limits}
    return [_use(limit, stored.get(limit.name), now_us) for limit in identity.limits]


def _use(limit: Limit, stored: LimitState | None, now_us: int) -> LimitUse:
    used, resets_us = None, None
    if stored is not None and stored.is_corrupt:
        # It denies every call that counts towards it.
        used = limit.at_once
    elif limit.subject.kind is SubjectKind.IDENTITY:
        used, resets_us = COUNTS[limit.kind].used(stored, now_us) if stored else (0, None)
    return LimitUse(
        name=limit.name,
        kind=limit.kind,
        allows=limit.describe(),
        used=used,
        of=limit.at_once,
        resets_ms=None if resets_us is None else resets_us // 1000,
        per=str(limit.subject),
    )


RECENT_S = 300
"""The age up to which a denial is recent."""


@dataclass(slots=True)
class RecentDenials(Result):
    """The recent denials of one code.

    Attributes:
        count: The number of denied calls. Equal denials within a minute are stored as one entry,
            with the time of the first.
        last_ms: The time of the newest entry.
    """

    count: int = 0
    last_ms: int = 0

    last_at = Instant[datetime]()


def read_recent_denials(
    store: Store, identities: Sequence[str], now_ms: int
) -> dict[str, dict[str, RecentDenials]]:
    """Return denials by identity and code; identities without any are left out."""
    since_ms = max(0, now_ms - RECENT_S * 1000)
    streams = denied_streams(store, identities)
    newest = zip(streams, newest_entries(store, streams, since_ms), strict=True)
    denied = list(dict.fromkeys(stream.identity for stream, entry in newest if entry))
    found: dict[str, dict[str, RecentDenials]] = {
        name: defaultdict(RecentDenials) for name in denied
    }
    for denial in read_denials(store, denied, Query(since_ms=since_ms)):
        of_code = found[denial.identity][denial.code]
        of_code.count += denial.repeats
        of_code.last_ms = max(of_code.last_ms, denial.time_ms)
    return found


@dataclass(frozen=True, slots=True)
class TokenCount(Result):
    """The live tokens of an identity.

    Attributes:
        due: The number of live tokens that are overdue for rotation.
        oldest: The live token that was issued first.
    """

    live: int = 0
    due: int = 0
    oldest: TokenInfo | None = None


def _count(tokens: Sequence[TokenInfo], now_ms: int) -> TokenCount:
    live = [token for token in tokens if token.state is TokenState.LIVE]
    return TokenCount(
        live=len(live),
        due=sum(token.is_due(now_ms) for token in live),
        oldest=min(live, key=lambda token: token.issued_ms, default=None),
    )


@dataclass(frozen=True, slots=True)
class IdentityStatus(Result):
    """The status of an identity of the active policy.

    Attributes:
        active: Whether it has a state; without one every call is denied.
        tokens: Its live tokens.
        events: The number of the newest event of its audit stream; 0 if there is none.
        audit_length: Entries in its audit stream.
        denied_length: Stored entries of denials.
        now_ms: Server time of the snapshot, Unix milliseconds.
        limits: The use of its limits.
        denials: The recent denials, by code; none if a shard could not be read.
        suspension: The suspension in effect.
        folded: Denials without an entry of their own: they are counted with the first of their
            kind.
        replays: Calls that got a remembered reply by their idempotency id.
        shards: Its leases on a cluster, where events and lengths are those of all shards; None on
            one server.
    """

    name: str
    kind: str
    active: bool
    tokens: TokenCount
    events: int
    audit_length: int
    denied_length: int
    now_ms: int
    limits: list[LimitUse]
    denials: Mapping[str, RecentDenials] = field(default_factory=dict)
    suspension: Suspension | None = None
    folded: int = 0
    replays: int = 0
    shards: tuple[ShardStatus, ...] | None = None

    @property
    def suspended(self) -> bool:
        """Return whether a suspension is in effect."""
        return self.suspension is not None

    @property
    def recent(self) -> int:
        """The number of calls that were denied recently."""
        return sum(of_code.count for of_code in self.denials.values())

    @property
    def word(self) -> str:
        """`active`, or the reason why every call is denied."""
        if not self.active:
            return "NO STATE"
        return "SUSPENDED" if self.suspended else "active"

    @property
    def oldest_is_due(self) -> bool:
        """Return whether the oldest live token is overdue for rotation."""
        return self.tokens.oldest is not None and self.tokens.oldest.is_due(self.now_ms)

    def to_dict(self) -> dict[str, Any]:
        oldest = self.tokens.oldest
        return {
            **json_object(self, "name", "kind", "active", "suspended", "suspension"),
            **json_object(self.tokens, "live_tokens=live", "tokens_due=due"),
            "oldest_token": oldest
            and {**json_object(oldest, "id", "issued_ms"), "due": self.oldest_is_due},
            **json_object(self, "events", "audit_length", "denied_length", "denials_folded=folded"),
            **json_object(self, "replays"),
            "denials": [
                {"code": code, **of_code.to_dict()}
                for code, of_code in sorted(self.denials.items())
            ],
            "limits": [use.to_dict() for use in self.limits],
            **({} if self.shards is None else json_object(self, "shards")),
        }


def identity_statuses(
    store: Store, active: ActivePolicy, now_ms: int, only: Sequence[str] = ()
) -> list[IdentityStatus]:
    """Return the status of identities of the *active* policy, all if *only* names none."""
    identities = active_policy(active.document).identities
    identities = tuple(item for item in identities if not only or item.name in only)
    names = [item.name for item in identities]
    rules = {item.name: item.token for item in identities}
    tokens = {
        name: _count(found, now_ms) for name, found, _ in read_tokens(store, rules, now_ms * 1000)
    }
    shards: dict[str, list[ShardRecords]] = defaultdict(list)
    for records in read_shards(store, names):
        shards[records.identity].append(records)
    readable = {name for name in names if not any(shard.reason for shard in shards[name])}
    denials = read_recent_denials(store, [name for name in names if name in readable], now_ms)
    states = read_states(store, names)
    found = []
    for some in batches(identities):
        counts = read_unlisted(store, [item.name for item in some if item.name in readable])
        activity = read_activity(store, [item.name for item in some])
        for item, activity_of in zip(some, activity, strict=True):
            name, state = item.name, next(states)
            at_shards = shards[name]
            leases = tuple(shard_status(item, records, now_ms * 1000) for records in at_shards)
            found.append(
                IdentityStatus(
                    name=name,
                    kind=str(item.kind),
                    active=state is not None,
                    tokens=tokens.get(name, TokenCount()),
                    events=(0 if state is None else state.sequence)
                    + sum(shard.events for shard in leases),
                    audit_length=activity_of.audited + sum(shard.audited for shard in at_shards),
                    denied_length=activity_of.denied + sum(shard.denied for shard in at_shards),
                    now_ms=now_ms,
                    limits=limit_uses(item, state, now_ms * 1000),
                    denials=denials.get(name, {}),
                    suspension=suspension_of(state, activity_of.suspension, now_ms),
                    **counts.get(name, Unlisted())._asdict(),
                    shards=None if store.cluster is None else leases,
                )
            )
    return found
