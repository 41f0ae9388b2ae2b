"""One entry by its id, in whatever trail it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from keyleash.audit.control import ControlEvent, control_event
from keyleash.audit.event import AuditEvent, Denial
from keyleash.audit.pages import RawEntry, Words, read_pages
from keyleash.audit.reader import denial_of, events_of, with_sequels
from keyleash.audit.repeats import Repeating
from keyleash.errors import AmbiguousEventError, UnknownEventError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client

CONTROL = "control"
DENIED = "denied"
_WANTED = re.compile(
    rf"(?:(?:(?P<kind>audit|{DENIED}):)?(?P<whose>[^/\s:]+)/)?(?P<id>[0-9]{{1,19}}-[0-9]{{1,19}})"
)
_HELP = "see `keyleash audit log` for the ids of events"


@dataclass(frozen=True, slots=True)
class Trail:
    """A stream that may have the entry.

    Attributes:
        kind: `audit`, `denied` or `control`.
        whose: The identity; `control` of the operators' stream.
    """

    kind: str
    whose: str

    def stream(self, keyspace: Keyspace) -> str:
        """Its name in Redis."""
        match self.kind:
            case "audit":
                return keyspace.audit(self.whose)
            case "denied":
                return keyspace.denied(self.whose)
            case _:
                return keyspace.control


def find_event(
    client: Client, keyspace: Keyspace, identities: Iterable[str], wanted: str
) -> tuple[AuditEvent | Denial | ControlEvent, ...]:
    """
    Find an entry by its id, with all that was said of it later.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        identities: Whose trails to look in.
        wanted: `<id>`, `<identity>/<id>`, `audit:<identity>/<id>`, `denied:<identity>/<id>` or
            `control/<id>`. The id of an entry that is about another one means that one.

    Returns:
        One entry; of a batch each of its commands.

    Raises:
        UnknownEventError: there is none, or *wanted* is no id.
        AmbiguousEventError: several trails have an entry of that id.
    """
    client = operator_client(client)
    parts = _WANTED.fullmatch(wanted)
    if parts is None:
        raise UnknownEventError(f"`{wanted}` is no id of an event", help=_HELP)
    trails = [
        trail
        for trail in _trails(identities)
        if parts["whose"] in {None, trail.whose} and parts["kind"] in {None, trail.kind}
    ]
    found = _look(client, keyspace, trails, parts["id"])
    if not found:
        raise UnknownEventError(f"no trail has an event `{wanted}`", help=_HELP)
    if len(found) > 1:
        several = ", ".join(f"`{_name(trail, found)}/{parts['id']}`" for trail in found)
        raise AmbiguousEventError(
            f"{len(found)} trails have an event `{wanted}`", help=f"name one of {several}"
        )
    ((trail, entry),) = found.items()
    return _read(client, keyspace, trail, entry)


def _trails(identities: Iterable[str]) -> Iterator[Trail]:
    for identity in identities:
        yield Trail("audit", identity)
        yield Trail(DENIED, identity)
    yield Trail(CONTROL, CONTROL)


def _name(trail: Trail, found: Iterable[Trail]) -> str:
    is_alone = sum(other.whose == trail.whose for other in found) == 1
    return trail.whose if is_alone else f"{trail.kind}:{trail.whose}"


def _look(
    client: Client, keyspace: Keyspace, trails: Iterable[Trail], entry_id: str
) -> dict[Trail, RawEntry]:
    """The entry of that id in each trail that has one, or what it is about."""
    trails = list(trails)
    with client.pipeline(transaction=False) as pipe:
        for trail in trails:
            pipe.execute_command(b"XRANGE", trail.stream(keyspace), entry_id, entry_id)
        replies = pipe.execute() if trails else []
    found = {
        trail: _meant(client, trail.stream(keyspace), entries[0])
        for trail, entries in zip(trails, replies, strict=True)
        if entries
    }
    return {trail: entry for trail, entry in found.items() if entry is not None}


def _meant(client: Client, stream: str, entry: RawEntry) -> RawEntry | None:
    """The entry, or the one that it is about; None if that is gone."""
    _, words = entry
    if words[0] != b"of":
        return entry
    abouts: list[RawEntry] = client.execute_command(b"XRANGE", stream, words[1], words[1])
    return next((about for about in abouts if about[1][0] != b"of"), None)


def _read(
    client: Client, keyspace: Keyspace, trail: Trail, entry: RawEntry
) -> tuple[AuditEvent | Denial | ControlEvent, ...]:
    entry_id, words = entry
    match trail.kind:
        case "audit":
            sequels = _sequels(client, trail.stream(keyspace), entry_id)
            return events_of(trail.whose, entry_id, words, sequels)
        case "denied":
            repeating = Repeating(client, keyspace, trail.whose)
            repeating.look_ahead(_time_ms(entry_id))
            return (repeating.counted(denial_of(trail.whose, entry_id, words)),)
        case _:
            return (control_event(entry),)


def _sequels(client: Client, stream: str, entry_id: bytes) -> Sequence[Words]:
    pages = read_pages(client, stream, _time_ms(entry_id))
    # Trimmed in this moment: then nothing more is known of it.
    return next((said for found, _, said in with_sequels(pages) if found == entry_id), ())


def _time_ms(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])
