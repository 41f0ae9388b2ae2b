"""
Which events are trusted.

A fenced agent can append any entry to the audit stream of its identity, though to no other. A
guard lets a command through if all its keys are granted; so an event that names a key which no
policy granted to its identity at that time, or not for a change, is not a guard's.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from keyleash.audit.event import AuditEvent
from keyleash.audit.undo.grants import ANY, CHANGES, Grants
from keyleash.audit.undo.steps import changed_keys, unmasked
from keyleash.commands import load_table
from keyleash.errors import NothingToUndoError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace

Found = TypeVar("Found")


class Trust:
    """
    Tells trusted events from others, and counts these.

    Args:
        grants: What policies let identities change.
        keys: Keys by their names, for events that record them masked.

    Attributes:
        untrusted: How many events were not trusted, by identity.
    """

    def __init__(self, grants: Grants, keys: Iterable[bytes] = ()) -> None:
        self.untrusted: collections.Counter[str] = collections.Counter()
        self._grants = grants
        self._unmasked = unmasked(keys)

    @classmethod
    def of(cls, client: Client, keyspace: Keyspace, keys: Iterable[bytes] = ()) -> Trust:
        """Make one from the policies of a server."""
        return cls(Grants(client, keyspace), keys)

    def is_trusted(self, event: AuditEvent) -> bool:
        """Return whether *event* may be a guard's."""
        name, time_ms = event.identity, event.time_ms
        changed = changed_keys(event)
        is_trusted = all(
            self._grants.could_use(
                name, self._unmasked(key) or key, time_ms, CHANGES if key in changed else ANY
            )
            for key in (changed if _names_no_keys(event) else event.keys)
        )
        self.untrusted[name] += not is_trusted
        return is_trusted

    def marked(self, entries: Iterable[Found]) -> Iterator[Found | AuditEvent]:
        """Mark events that are not trusted; other entries are passed on as they are."""
        for entry in entries:
            if isinstance(entry, AuditEvent) and not self.is_trusted(entry):
                yield replace(entry, is_untrusted=True)
            else:
                yield entry


def _names_no_keys(event: AuditEvent) -> bool:
    """Whether what the command names are channels, or the pattern of a SCAN."""
    spec = load_table().get(event.op)
    return spec is not None and (spec.channel is not None or not spec.keys)


def nothing_trusted(untrusted: Mapping[str, int]) -> NothingToUndoError:
    """The error that says that all events that would be undone are untrusted."""
    return NothingToUndoError(
        f"the events that this would undo are untrusted: {described(untrusted)}",
        help="no policy of their time lets the identity change these keys: its agent may have"
        " made them up",
    )


def described(untrusted: Mapping[str, int]) -> str:
    """Return how many events of whom are untrusted: `2 of `a`, 1 of `b``."""
    return ", ".join(f"{count} of `{name}`" for name, count in sorted(untrusted.items()) if count)
