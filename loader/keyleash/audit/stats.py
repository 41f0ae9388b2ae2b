"""Count events by identity, token and operation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import islice

from keyleash.audit.entries import AuditEvent, Denial
from keyleash.audit.read import Query, read_denials, read_events
from keyleash.errors import ReplyCode
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client

PREFIX_SEGMENTS = 2
ANY_COMMAND = "(any command)"
"""The operation of repeated denials whose commands are not recorded."""


@dataclass(slots=True)
class Tally:
    """How often something occurs.

    Attributes:
        events: Commands that were let through and recorded.
        failed: Those of them that failed.
        refused: Refusals, each repeat counted.
    """

    events: int = 0
    failed: int = 0
    denied: int = 0

    @property
    def total(self) -> int:
        """Whatever became of it."""
        return self.events + self.denied


@dataclass(slots=True)
class Stats:
    """Numbers of some time.

    Attributes:
        first_ms: Server time of the first entry, Unix milliseconds; None if there is none.
        last_ms: Of the last.
        ops: By command. Repeats of a denial that may be of other commands are `ANY_COMMAND`.
        prefixes: By what keys begin with; a call of several keys counts once for each beginning.
    """

    first_ms: int | None = None
    last_ms: int | None = None
    identities: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    ops: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    prefixes: dict[bytes, Tally] = field(default_factory=lambda: defaultdict(Tally))
    codes: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))

    def add(self, entry: AuditEvent | Denial, segments: int = PREFIX_SEGMENTS) -> None:
        """Count an entry."""
        tallies = [self.identities[entry.identity]]
        if isinstance(entry, Denial) and entry.is_any_command:
            self.ops[entry.op].denied += 1
            if entry.folded_count:
                self.ops[ANY_COMMAND].denied += entry.folded_count
        else:
            tallies.append(self.ops[entry.op])
        tallies += [
            self.prefixes[item] for item in {key_prefix(key, segments) for key in entry.keys}
        ]
        if isinstance(entry, Denial):
            tallies.append(self.codes[entry.code])
        for tally in tallies:
            _count(tally, entry)
        self.first_ms = min(self.first_ms or entry.time_ms, entry.time_ms)
        self.last_ms = max(self.last_ms or 0, entry.time_ms)


def count_entries(entries: Iterable[AuditEvent | Denial], segments: int = PREFIX_SEGMENTS) -> Stats:
    """Count entries; *segments* says how much of a key makes its prefix."""
    stats = Stats()
    for entry in entries:
        stats.add(entry, segments)
    return stats


def key_prefix(key: bytes, segments: int = PREFIX_SEGMENTS) -> bytes:
    """The first segments of a key, never its last: `a:b:` of `a:b:c:d`; empty of `a`."""
    parts = key.split(b":", segments)
    return b"".join(part + b":" for part in parts[:-1])


def _count(tally: Tally, entry: AuditEvent | Denial) -> None:
    if isinstance(entry, Denial):
        tally.denied += entry.repeats
    else:
        tally.events += 1
        tally.failed += entry.error is not None


def count_token_calls(
    client: Client,
    keyspace: Keyspace,
    identity: str,
    token_id: str,
) -> int:
    """How many commands the identity's trail still has of a token, those of batches one by one.

    That is less than were let through: commands that only read are recorded where the policy
    says so, and a trail is trimmed.
    """
    query = Query(token=token_id)
    return sum(1 for _ in read_events(client, keyspace, [identity], query))


def recent_calls(
    client: Client,
    keyspace: Keyspace,
    identities: Collection[str],
    span_ms: tuple[int, int],
    at_most: int,
) -> tuple[Counter[str], frozenset[str]]:
    """How many commands trails have of a stretch of time, by token id.

    Args:
        client: A redis-py client of an operator, `decode_responses` off.
        keyspace: Where the control keys are.
        identities: Whose trails.
        span_ms: From when until when, both included: server time, Unix milliseconds.
        at_most: Of each trail no more than these, the newest, are looked at.

    Returns:
        The numbers, and the identities whose trail has more than was looked at.
    """
    query = Query(since_ms=span_ms[0], until_ms=span_ms[1])
    found: Counter[str] = Counter()
    more = set()
    for identity in identities:
        events = read_events(client, keyspace, [identity], query, newest_first=True)
        found.update(event.token for event in islice(events, at_most))
        if next(events, None) is not None:
            more.add(identity)
    return found, frozenset(more)


def count_revoked_denials(
    client: Client, keyspace: Keyspace, identities: Collection[str], since_ms: int | None = None
) -> Counter[str]:
    """How many calls were refused because their token is revoked, by token id.

    What was refused alike within a minute is counted from the first on; only if that came
    before *since_ms* it is left out.
    """
    query = Query(code=ReplyCode.TOKEN_REVOKED, since_ms=since_ms)
    found: Counter[str] = Counter()
    for denial in read_denials(client, keyspace, identities, query):
        found[denial.token] += denial.repeats
    return found
