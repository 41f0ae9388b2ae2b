"""Reading trails back: page by page, filtered, sequels folded in, identities merged by time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from keyleash.audit.entry import audit_events, audit_sequel, denial_entry
from keyleash.audit.event import AuditEvent, Denial
from keyleash.audit.merging import merged
from keyleash.audit.pages import RawEntry, Words, pairs_of, place_of_last_ms, read_pages
from keyleash.audit.query import EVERYTHING, Matcher, Query
from keyleash.audit.repeats import Repeating
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client

Folded = tuple[bytes, Words, Sequence[Words]]
"""An entry's id and words, and the words of its sequels."""


def read_events(
    client: Client,
    keyspace: Keyspace,
    identities: Iterable[str],
    query: Query = EVERYTHING,
    *,
    newest_first: bool = False,
) -> Iterator[AuditEvent]:
    """Read what identities did, by time.

    An entry that only corrects an event is not one of its own; a batch is one for each of its
    commands that *query* accepts.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        identities: Whose trails; they need not be active any more. `OPERATORS` have one too.
        query: Which events.
        newest_first: Read backwards.
    """
    client = operator_client(client)
    matcher = Matcher(query)

    def trail(identity: str) -> Iterator[AuditEvent]:
        pages = read_pages(
            client,
            keyspace.audit(identity),
            query.since_ms,
            query.until_ms,
            newest_first=newest_first,
        )
        for entry_id, words, sequels in with_sequels(pages, newest_first=newest_first):
            if matcher.may_accept(words):
                events = events_of(identity, entry_id, words, sequels)
                yield from filter(matcher.accepts, reversed(events) if newest_first else events)

    return merged(map(trail, identities), newest_first=newest_first)


def read_denials(
    client: Client,
    keyspace: Keyspace,
    identities: Iterable[str],
    query: Query = EVERYTHING,
    *,
    newest_first: bool = False,
) -> Iterator[Denial]:
    """Read what identities were refused, by time; arguments as for `read_events`.

    How often each was refused alike is known up to now, also of a minute that is not over.
    """
    client = operator_client(client)
    matcher = Matcher(query)

    def trail(identity: str) -> Iterator[Denial]:
        repeating = Repeating(client, keyspace, identity)
        # The number of repeats comes when there is a refusal in a later minute: it may be
        # far from the first, and behind the time that is asked for.
        until_ms = None if newest_first else query.until_ms
        if not newest_first:
            repeating.look_ahead(query.since_ms)
        stream = keyspace.denied(identity)
        for page in read_pages(client, stream, query.since_ms, until_ms, newest_first=newest_first):
            for entry_id, words in page:
                if words[0] == b"of":
                    repeating.note(words)
                elif matcher.may_accept(words):
                    denial = denial_of(identity, entry_id, words)
                    if matcher.accepts(denial):
                        yield repeating.counted(denial)

    return merged(map(trail, identities), newest_first=newest_first)


def events_of(
    identity: str, entry_id: bytes, words: Words, sequels: Iterable[Words] = ()
) -> tuple[AuditEvent, ...]:
    """The events of one entry, with what its sequels say."""
    said = (audit_sequel(pairs_of(one)) for one in sequels)
    return audit_events(identity, entry_id, pairs_of(words), [one for one in said if one])


def with_sequels(
    pages: Iterable[list[RawEntry]], *, newest_first: bool = False
) -> Iterator[Folded]:
    """Put each entry together with the later ones that are about it.

    The script that appends an entry appends them, and time stands still for a script: oldest
    first, an entry is given out when one of a later millisecond has come.
    """
    waiting: dict[bytes, list[Words]] = defaultdict(list)
    held: list[RawEntry] = []
    for page in chain(pages, [[]]):
        for _, words in page:
            if words[0] == b"of":
                waiting[words[1]].append(words)
        entries = page
        if not newest_first:
            entries = held + page
            end = place_of_last_ms(entries) if page else len(entries)
            entries, held = entries[:end], entries[end:]
        for entry_id, words in entries:
            if words[0] != b"of":
                yield entry_id, words, waiting.pop(entry_id, ())


def denial_of(identity: str, entry_id: bytes, words: Words) -> Denial:
    """The refusal of an entry that is one."""
    return denial_entry(identity, entry_id, pairs_of(words))
