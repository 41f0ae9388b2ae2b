"""Streams written by hand, as docs/reference/audit-events.md has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, AnyStr

from keyleash.audit.entries import AuditEvent, Denial
from keyleash.audit.stats import Stats
from keyleash.store.keyspace import Keyspace

KEYS = Keyspace()


def count_entries(entries: Iterable[AuditEvent | Denial]) -> Stats:
    """Return the tallies of entries."""
    stats = Stats()
    for entry in entries:
        stats.add(entry)
    return stats


class Streams:
    """A server whose streams a test writes itself."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def event(
        self, identity: str, entry_id: str, *, op: str = "SET", key: Any = "k", **fields: Any
    ) -> None:
        """Append the event of one command; fields that are None are left out.

        Args:
            op: The name of the command; with several keys, with their number: `MSET:2`.
            key: The key, or netstrings of the keys.
        """
        head = {"seq": None, "token": "t", "policy": "p 1,1w", "correlation": "c"}
        self.append(KEYS.audit(identity), entry_id, *_words({**head, op: key, **fields}))

    def batch(self, identity: str, entry_id: str, *commands: Any, seq: int = 1) -> None:
        """Append a batch's event: names of commands and keys in turn."""
        head = {"seq": seq, "token": "t", "policy": "p 2,2w", "correlation": "c"}
        self.append(KEYS.audit(identity), entry_id, *_words(head), *commands)

    def error(self, identity: str, entry_id: str, of: str, **fields: Any) -> None:
        """Append that an event's command failed."""
        denial = {"of": of, **fields, "error": "ERR no"}
        self.append(KEYS.audit(identity), entry_id, *_words(denial))

    def denial(self, identity: str, entry_id: str, **fields: Any) -> None:
        """Append a refusal."""
        denial = {
            "seq": None,
            "token": "t",
            "code": "KEY_NOT_GRANTED",
            "reason": "",
            "op": "GET",
            "key": "k",
            "correlation": "c",
            "policy": "p 1,1w",
            **fields,
        }
        self.append(KEYS.denied(identity), entry_id, *_words(denial))

    def repeats(self, identity: str, entry_id: str, of: str, count: int) -> None:
        """Append how often a refusal came."""
        self.append(KEYS.denied(identity), entry_id, "of", of, "repeats", count)

    def append(self, stream: str, entry_id: str, *words: Any) -> None:
        """Append an entry of any form."""
        self.client.execute_command("XADD", stream, entry_id, *words)


def command_of(event: Mapping[AnyStr, AnyStr]) -> tuple[AnyStr, AnyStr]:
    """Return the field of an event that names its only command, and its key or keys."""
    ((name, key),) = (field for field in event.items() if not field[0][:1].islower())
    return name, key


def packed_keys(keys: Sequence[bytes]) -> bytes:
    """Return keys as an event has those of a run: an array of texts in MessagePack."""

    def head(size: int, short: int, bits: int, widths: Mapping[int, int]) -> bytes:
        if size < 1 << bits:
            return bytes([short | size])
        code = next(code for code, width in widths.items() if size < 1 << 8 * width)
        return bytes([code]) + size.to_bytes(widths[code], "big")

    texts = [head(len(key), 0xA0, 5, {0xD9: 1, 0xDA: 2, 0xDB: 4}) + key for key in keys]
    return head(len(keys), 0x90, 4, {0xDC: 2, 0xDD: 4}) + b"".join(texts)


def _words(fields: dict[str, Any]) -> list[Any]:
    return [word for pair in fields.items() if pair[1] is not None for word in pair]
