"""Streams written by hand, as docs/reference/audit-events.md has them."""

from __future__ import annotations

from typing import Any

from keyleash.store.keyspace import Keyspace

KEYS = Keyspace()


class Streams:
    """A server whose streams a test writes itself."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def event(self, identity: str, entry_id: str, **fields: Any) -> None:
        """Append the event of one command; fields that are None are left out."""
        event = {
            "seq": None,
            "token": "t",
            "op": "SET",
            "key": "k",
            "correlation": "c",
            "policy": "p 1,1w",
            **fields,
        }
        self.append(KEYS.audit(identity), entry_id, *_words(event))

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


def _words(fields: dict[str, Any]) -> list[Any]:
    return [word for pair in fields.items() if pair[1] is not None for word in pair]
