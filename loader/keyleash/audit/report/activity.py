"""What identities did and were refused in some time, from one pass over their trails."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from keyleash.audit.event import AuditEvent, Denial
from keyleash.audit.gaps import Gap, with_gaps
from keyleash.audit.merging import merged
from keyleash.audit.pages import pairs_of
from keyleash.audit.query import Query
from keyleash.audit.reader import read_denials, read_events
from keyleash.audit.report.lives import Lives
from keyleash.audit.report.timeline import Timeline
from keyleash.audit.stats import Stats, Tally
from keyleash.audit.undo.trust import Trust
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client

AnyEntry = AuditEvent | Denial
ENDS = 50
"""So many of the first entries are kept, and so many of the last."""
MAX_GAPS = 50


@dataclass(slots=True)
class Refused:
    """
    Refusals of one identity with one code and reason.

    Attributes:
        count: How many, each repeat counted.
        first: The first.
        last_ms: Server time of the last that is an entry of its own, Unix milliseconds.
    """

    count: int
    first: Denial
    last_ms: int


@dataclass(slots=True)
class Activity:
    """
    Entries of some time, in numbers and in part.

    Attributes:
        entries: How many there were.
        operations: Commands that were let through, by identity.
        refused: Refusals, by identity.
        tokens: Tallies by identity and token id.
        refusals: By identity, code and reason.
        folded: Denials that have no entry of their own.
        untrusted: Events that no guard may have written, by identity; see `audit.undo.trust`.
        lives: What became of keys, by trusted events.
        first: The first entries.
        last: The last of those that are not among *first*.
        gaps: Where numbers are missing, the first of these.
        missing: How many entries are missing in all.
        trimmed: Identities whose trail no longer has the begin of the time.
    """

    entries: int = 0
    stats: Stats = field(default_factory=Stats)
    operations: Timeline = field(default_factory=Timeline)
    refused: Timeline = field(default_factory=Timeline)
    tokens: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    refusals: dict[tuple[str, str, str], Refused] = field(default_factory=dict)
    folded: int = 0
    untrusted: Counter[str] = field(default_factory=Counter)
    lives: Lives = field(default_factory=Lives)
    first: list[AnyEntry] = field(default_factory=list)
    last: deque[AnyEntry] = field(default_factory=lambda: deque(maxlen=ENDS))
    gaps: list[Gap] = field(default_factory=list)
    missing: int = 0
    trimmed: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        """Entries that are neither among the first nor among the last."""
        return self.entries - len(self.first) - len(self.last)

    def add(self, entry: AnyEntry) -> None:
        """Take in an entry that is not older than those before it."""
        self.entries += 1
        self.stats.add(entry)
        tally = self.tokens[entry.identity, entry.token]
        # Both, so that their pieces stay as wide.
        count = entry.repeats if isinstance(entry, Denial) else 0
        self.operations.add(entry.time_ms, entry.identity, 0 if count else 1)
        self.refused.add(entry.time_ms, entry.identity, count)
        if isinstance(entry, Denial):
            tally.refused += count
            self._add_refusal(entry)
        else:
            tally.events += 1
            tally.failed += entry.error is not None
            if not entry.is_untrusted:
                self.lives.add(entry)
        self.first.append(entry) if len(self.first) < ENDS else self.last.append(entry)

    def _add_refusal(self, denial: Denial) -> None:
        alike = self.refusals.setdefault(
            (denial.identity, denial.code, denial.reason), Refused(0, denial, denial.time_ms)
        )
        alike.count += denial.repeats
        alike.last_ms = denial.time_ms
        self.folded += denial.folded_count

    def add_gap(self, gap: Gap) -> None:
        """Take in a gap."""
        self.missing += gap.missing
        if len(self.gaps) < MAX_GAPS:
            self.gaps.append(gap)


def read_activity(
    client: Client, keyspace: Keyspace, identities: Sequence[str], query: Query
) -> Activity:
    """
    Read what identities did and were refused.

    Memory is bounded but for names: numbers are kept, and entries only in part.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        identities: Whose trails.
        query: Which entries. If it narrows by more than time, there are no gaps.
    """
    client = operator_client(client)
    trust = Trust.of(client, keyspace)
    activity = Activity(untrusted=trust.untrusted)
    trails: list[Iterator[AnyEntry]] = [
        read_events(client, keyspace, identities, query),
        read_denials(client, keyspace, identities, query),
    ]
    entries = merged(trails)
    for one in trust.marked(with_gaps(entries) if query.takes_all else entries):
        if isinstance(one, Gap):
            activity.add_gap(one)
        else:
            activity.add(one)
    activity.trimmed = [
        name for name in identities if _is_trimmed(client, keyspace.audit(name), query)
    ]
    return activity


def _is_trimmed(client: Client, stream: str, query: Query) -> bool:
    """Whether events are gone that may be meant: the oldest one is not the first."""
    page = client.execute_command(b"XRANGE", stream, "-", "+", "COUNT", 1)
    if not page:
        return False
    entry_id, words = page[0]
    time_ms = int(entry_id.partition(b"-")[0])
    seq = dict(pairs_of(words)).get(b"seq", b"")
    starts_later = time_ms > (query.since_ms or 0)
    ends_earlier = query.until_ms is not None and query.until_ms < time_ms
    return starts_later and not ends_earlier and seq != b"1" and seq.isdigit()
