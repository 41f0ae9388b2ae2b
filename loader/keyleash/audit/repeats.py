"""How often a denial came: the stream has the counts of past minutes, a hash those of this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from keyleash.audit.entry import number_of, repeats_of
from keyleash.audit.event import Denial
from keyleash.audit.pages import Words, pairs_of, read_pages
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace

_ID = b"id:"
_PAGE = 1000
"""More fields than a guard makes: a hash that takes several pages is not a guard's work."""


class Repeating:
    """The numbers of repeats of one identity's refusals, by the id of the first."""

    def __init__(self, client: Client, keyspace: Keyspace, identity: str) -> None:
        self._client = client
        self._stream = keyspace.denied(identity)
        # Before the stream is read: a minute that ends meanwhile has its numbers there.
        self._counts = _counts_of_this_minute(client, keyspace.repeats(identity))

    def note(self, words: Words) -> None:
        """Take in an entry of the stream that counts earlier denials."""
        self._counts.update(repeats_of(pairs_of(words)))

    def look_ahead(self, since_ms: int | None) -> None:
        """Take in all such entries from a time on; the stream is short."""
        for page in read_pages(self._client, self._stream, since_ms):
            for _, words in page:
                if words[0] == b"of":
                    self.note(words)

    def counted(self, denial: Denial) -> Denial:
        """The refusal, with how often it came."""
        count = self._counts.get(denial.id.encode(), 1)
        return denial if count <= 1 else replace(denial, repeats=count)


def read_folded(client: Client, keyspace: Keyspace, identities: Sequence[str]) -> dict[str, int]:
    """
    Count the denials of each identity that have no entry of their own.

    They are counted with the first denial of their kind in their minute. The number begins at 0
    where the identity's hash of counts was lost.
    """
    with client.pipeline(transaction=False) as pipe:
        for name in identities:
            pipe.hscan(keyspace.repeats(name), count=_PAGE)
        pages = pipe.execute() if identities else []
    found = {}
    for name, (_, fields) in zip(identities, pages, strict=True):
        this_minute = sum(max(0, count - 1) for count in _counts_by_id(fields).values())
        found[name] = number_of(fields.get(b"folded", b"")) + this_minute
    return found


def _counts_of_this_minute(client: Client, name: str) -> dict[bytes, int]:
    # A fenced agent may have put any number of fields there.
    return _counts_by_id(dict(client.hscan_iter(name, count=_PAGE)))


def _counts_by_id(fields: Mapping[bytes, bytes]) -> dict[bytes, int]:
    return {
        entry_id: number_of(fields.get(alike.removeprefix(_ID), b"1"))
        for alike, entry_id in fields.items()
        if alike.startswith(_ID)
    }
