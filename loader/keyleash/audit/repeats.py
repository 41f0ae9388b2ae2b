"""How often a refusal came: what the stream says of past minutes, and a hash of this one."""

from __future__ import annotations

from dataclasses import replace

from keyleash.audit.entry import number_of
from keyleash.audit.event import Denial
from keyleash.audit.pages import Words, read_pages
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace

_ID = b"id:"


class Repeating:
    """The numbers of repeats of one identity's refusals, by the id of the first."""

    def __init__(self, client: Client, keyspace: Keyspace, identity: str) -> None:
        self._client = client
        self._stream = keyspace.denied(identity)
        # Before the stream is read: a minute that ends meanwhile has its numbers there.
        self._counts = _counts_of_this_minute(client, keyspace.repeats(identity))

    def note(self, words: Words) -> None:
        """Take in an entry of the stream that says how often a refusal came."""
        _, of, name, count = words[:4] if len(words) > 3 else (b"", b"", b"", b"")
        if name == b"repeats":
            self._counts[of] = number_of(count)

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


def _counts_of_this_minute(client: Client, name: str) -> dict[bytes, int]:
    # Whoever is refused chooses names that are in here, so it may have many fields.
    fields = dict(client.hscan_iter(name, count=500))
    return {
        entry_id: number_of(fields.get(alike.removeprefix(_ID), b"1"))
        for alike, entry_id in fields.items()
        if alike.startswith(_ID)
    }
