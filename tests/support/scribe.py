"""Append audit events as a guard does, with any identity, time and before-image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyleash.audit.undo.key_values import read_keys
from keyleash.commands import keys_of, load_table
from keyleash.store.keyspace import Keyspace
from keyleash.store.server_check import Client
from keyleash.store.store import Store

NAMES = Keyspace()
Words = Sequence[Any]


class Scribe:
    """Runs commands for identities and records each as an event with before-images."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def run(
        self,
        identity: str,
        *command: Any,
        correlation: str = "c",
        images: bool = True,
        keys: Sequence[str] | None = None,
        after: str | None = None,
        entry_id: str = "*",
        expires_ms: int | None = None,
    ) -> str:
        """
        Run one command.

        Args:
            identity: Who does it; it need not be known.
            command: Its words.
            correlation: Of the event.
            images: Whether before-images are taken.
            keys: What the event names, if not the command's keys.
            after: What the later entry says of every key, if not the truth.
            entry_id: The event's id.
            expires_ms: When the keys would have expired without it, if not the truth.

        Returns:
            The id of the event.
        """
        self.client.hset(NAMES.layouts, identity, "{}")
        words = [str(word).encode() if not isinstance(word, bytes) else word for word in command]
        spec = load_table().find(words)
        assert spec is not None
        touched = [use.key for use in keys_of(spec, words)]
        changed = [key for key in touched if images]
        shown = touched if keys is None else [key.encode() for key in keys]
        fields: list[Any] = ["token", f"token-{identity}", "policy", "p 1,1w"]
        fields += ["correlation", correlation, f"{spec.name}:{len(shown)}"]
        fields += [b"".join(b"%d:%s," % (len(key), key) for key in shown)]
        for key in changed:
            fields += ["before", key]
            kind = self.client.type(key)
            expires = "absent" if kind == b"none" else expires_ms or self.client.pexpiretime(key)
            is_text = kind in (b"none", b"string")
            kept = (self.client.get(key) or b"") if is_text else self.client.dump(key)
            fields += ["expires", expires, "value" if is_text else "image", kept]
        event = self.add(identity, *fields, entry_id=entry_id)
        self.client.execute_command(*words)
        afters = []
        for value in read_keys(Store(self.client, NAMES), changed).values():
            expires = -1 if value.expires_ms is None else value.expires_ms
            expected = value.digest if value.is_absent else f"{value.digest}:{expires}"
            afters += ["after", expected if after is None else after]
        if afters:
            self.add(identity, "of", event, *afters)
        return event

    def add(self, identity: str, *fields: Any, entry_id: str = "*") -> str:
        """Append an entry of any fields, whose names may repeat."""
        stream = NAMES.audit(identity)
        appended = self.client.execute_command("XADD", stream, entry_id, *fields)
        return str(appended.decode())
