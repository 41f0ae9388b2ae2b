"""The activity of a time range, and the policies, tokens and operator actions in effect."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from keyleash.addons.report.key_history import KeyHistories, Timeline
from keyleash.audit.entries import AuditEvent, Denial, time_of
from keyleash.audit.lookup import Gap, Restart, with_gaps
from keyleash.audit.operator_actions import (
    ControlEvent,
    PolicyUse,
    in_sequence,
    policy_use,
    read_control,
)
from keyleash.audit.read import Query, read_denials, read_events
from keyleash.audit.stats import Stats, Tally
from keyleash.audit.streams import merged
from keyleash.operator.tokens.list import list_tokens
from keyleash.store.store import Store
from keyleash.store.streams import RawEntry, audit_streams, oldest_entry, pairs_of

AnyEntry = AuditEvent | Denial
ENDS = 50
"""Number of first entries that are stored, and of last ones."""
MAX_GAPS = 50


@dataclass(slots=True)
class DenialGroup:
    """Denials of one identity with one code and reason; *count* includes repeats."""

    count: int
    first: Denial
    last_ms: int


@dataclass(slots=True)
class Activity:
    """The entries of a time range, as counts and in part.

    Attributes:
        operations: Allowed commands, by identity.
        denied: Denials, by identity.
        tokens: Tallies by identity and token id.
        denials: Groups by identity, code and reason.
        folded: Number of denials without an entry.
        histories: Key histories.
        last: The last entries that are not among *first*.
        missing: Number of missing entries in all gaps, of which *gaps* has the first.
        trimmed: Identities whose stream no longer has the beginning of the time range.
    """

    entries: int = 0
    stats: Stats = field(default_factory=Stats)
    operations: Timeline = field(default_factory=Timeline)
    denied: Timeline = field(default_factory=Timeline)
    tokens: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    denials: dict[tuple[str, str, str], DenialGroup] = field(default_factory=dict)
    folded: int = 0
    histories: KeyHistories = field(default_factory=KeyHistories)
    first: list[AnyEntry] = field(default_factory=list)
    last: deque[AnyEntry] = field(default_factory=lambda: deque(maxlen=ENDS))
    gaps: list[Gap] = field(default_factory=list)
    missing: int = 0
    trimmed: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        """Return the number of entries that are neither in *first* nor in *last*."""
        return self.entries - len(self.first) - len(self.last)

    def add(self, entry: AnyEntry) -> None:
        """Add an entry that is not older than the previous ones."""
        self.entries += 1
        self.stats.add(entry)
        self.tokens[entry.identity, entry.token].add(entry)
        # Both timelines get each entry, so that their columns stay equally wide.
        count = entry.repeats if isinstance(entry, Denial) else 0
        self.operations.add(entry.time_ms, entry.identity, 0 if count else 1)
        self.denied.add(entry.time_ms, entry.identity, count)
        if isinstance(entry, Denial):
            group = self.denials.setdefault(
                (entry.identity, entry.code, entry.reason), DenialGroup(0, entry, entry.time_ms)
            )
            group.count += count
            group.last_ms = entry.time_ms
            self.folded += entry.folded_count
        else:
            self.histories.add(entry)
        self.first.append(entry) if len(self.first) < ENDS else self.last.append(entry)


def read_activity(store: Store, identities: Sequence[str], query: Query) -> Activity:
    """Read the events and denials of a time range.

    Memory is bounded except for names: only counts and some entries are stored. Gaps are found
    only if *query* filters by time alone.
    """
    activity = Activity()
    streams: list[Iterator[AnyEntry]] = [
        read_events(store, identities, query),
        read_denials(store, identities, query),
    ]
    entries = merged(streams)
    for item in with_gaps(entries) if query.is_time_only else entries:
        if isinstance(item, Restart):
            continue
        if not isinstance(item, Gap):
            activity.add(item)
            continue
        activity.missing += item.missing
        if len(activity.gaps) < MAX_GAPS:
            activity.gaps.append(item)
    activity.trimmed = [name for name in identities if _is_trimmed(store, name, query)]
    return activity


def _is_trimmed(store: Store, name: str, query: Query) -> bool:
    """Return whether events of the time range may have been trimmed."""
    streams = audit_streams(store, [name])
    return any(_begins_late(oldest_entry(store, stream), query) for stream in streams)


def _begins_late(oldest: RawEntry | None, query: Query) -> bool:
    if oldest is None:
        return False
    entry_id, words = oldest
    time_ms = time_of(entry_id)
    seq = dict(pairs_of(words)).get(b"seq", b"")
    starts_later = time_ms > (query.since_ms or 0)
    ends_earlier = query.until_ms is not None and query.until_ms < time_ms
    return starts_later and not ends_earlier and seq != b"1" and seq.isdigit()


MAX_ACTIONS = 200
"""Number of the last operator actions that are stored."""


@dataclass(slots=True)
class TokenUse:
    """A token of a report; times are None if they are no longer known."""

    id: str
    identity: str
    issued_ms: int | None = None
    issued_by: str = ""
    expires_ms: int | None = None
    revoked_ms: int | None = None
    revoked_by: str = ""
    note: str = ""

    def is_in_force(self, since_ms: int, until_ms: int) -> bool:
        """Return whether it was valid at any moment from *since_ms* to *until_ms*."""
        ends = [end for end in (self.expires_ms, self.revoked_ms) if end is not None]
        # The server forgets a token long after its end.
        is_known = self.issued_ms is not None and self.expires_ms is not None
        return is_known and (self.issued_ms or 0) <= until_ms and min(ends) >= since_ms


@dataclass(frozen=True, slots=True)
class ReportContext:
    """The active policies of a time range, the oldest first, its tokens and operator actions.

    Attributes:
        tokens: Valid or used tokens, the newest first.
        actions: The last operator actions, the oldest first.
        further_actions: Number of earlier actions.
    """

    policies: list[PolicyUse]
    tokens: list[TokenUse]
    actions: list[ControlEvent]
    further_actions: int


def read_context(
    store: Store,
    identities: Collection[str] | None,
    since_ms: int,
    until_ms: int,
    used: Collection[tuple[str, str]] = (),
) -> ReportContext:
    """Read the context of *since_ms* to *until_ms*: server time, Unix milliseconds.

    *identities* limits it to what concerns one of them. Tokens in *used*, by identity and id, are
    included even if they were not valid.
    """
    tokens = {
        (info.identity, info.id): TokenUse(
            id=info.id,
            identity=info.identity,
            issued_ms=info.issued_ms,
            issued_by=info.by,
            expires_ms=info.expires_ms,
            note=" ".join(
                filter(None, [info.note, *(f"{name}={value}" for name, value in info.meta.items())])
            ),
        )
        for info in list_tokens(store)
        if identities is None or info.identity in identities
    }
    activations: list[PolicyUse] = []
    actions: deque[ControlEvent] = deque(maxlen=MAX_ACTIONS)
    count = 0
    for event in read_control(store, identities, Query(until_ms=until_ms)):
        if event.event == "activate":
            activations.append(policy_use(event))
        if event.event in {"issue", "revoke"}:
            # The only records of a token that has been removed.
            name, token_id = event.details.get("identity", ""), event.details.get("token", "")
            token = tokens.setdefault((name, token_id), TokenUse(token_id, name))
            if event.event == "revoke":
                token.revoked_ms, token.revoked_by = event.time_ms, event.actor
            elif token.issued_ms is None:
                token.issued_ms, token.issued_by = event.time_ms, event.actor
        if event.time_ms >= since_ms:
            actions.append(event)
            count += 1
    for name, token_id in used:
        tokens.setdefault((name, token_id), TokenUse(token_id, name))
    shown = [
        token
        for place, token in tokens.items()
        if place in used or token.is_in_force(since_ms, until_ms)
    ]
    policies = in_sequence(activations)
    return ReportContext(
        policies=[use for use in policies if use.until_ms is None or use.until_ms >= since_ms],
        tokens=sorted(shown, key=lambda token: token.issued_ms or 0, reverse=True),
        actions=list(actions),
        further_actions=count - len(actions),
    )
