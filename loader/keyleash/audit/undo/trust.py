"""Checks events against the policies that were active when they were recorded.

A fenced agent can append any entry to the audit stream of its own identity. A guard allows a
command only if all its keys are granted, so an event that names a key that no policy granted to
its identity at that time was not written by a guard. Such an event is untrusted.
"""

from __future__ import annotations

import collections
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import TypeVar

from keyleash.audit.entries import AuditEvent
from keyleash.audit.operator_actions import PolicyUse, in_sequence, read_activations
from keyleash.audit.read import MASK, key_test
from keyleash.audit.undo.history import CHANGES, changed_keys, unmasked
from keyleash.commands import OperationClass, known_table
from keyleash.commands.facts import INDEXES
from keyleash.errors import KeyleashError, NothingToUndoError
from keyleash.policy import Identity, parse_policy
from keyleash.policy.model import AnySuffix
from keyleash.policy.patterns import beginning, match
from keyleash.store.keyspace import OPERATORS
from keyleash.store.records import ActivePolicy, read_active, read_history
from keyleash.store.scripts import KEPT_POLICIES
from keyleash.store.store import Store

ANY_CLASS = frozenset(OperationClass)
Entry = TypeVar("Entry")


class Grants:
    """The grants of the active policy and of its predecessors, which are read when needed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._active = read_active(store)
        self._unbounded: dict[str, bool] = {}

    def may_change(self, name: str, key: bytes) -> bool:
        """Return whether the active policy permits identity *name* to change *key*."""
        return self._active is not None and self._permits(self._active, name, key, CHANGES)

    def may_change_all(self, name: str) -> bool:
        """Return whether the active policy permits identity *name* to change every key."""
        if name not in self._unbounded:
            identities = _identities(self._active.document) if self._active else {}
            identity = None if isinstance(identities, KeyleashError) else identities.get(name)
            self._unbounded[name] = (
                identity is not None
                and not identity.deny
                and any(
                    pattern.parts == (AnySuffix(),) and not CHANGES.isdisjoint(grant.allow)
                    for grant in identity.grants
                    for pattern in grant.keys
                )
            )
        return self._unbounded[name]

    def could_use(
        self, name: str, key: bytes, time_ms: int, classes: frozenset[OperationClass] = CHANGES
    ) -> bool:
        """Return whether *name* may use *key* in one of *classes*, now or at a time.

        True also if the policy of that time names the identity and is no longer stored, and if the
        server has no record of any policy.
        """
        if name == OPERATORS or (self._active and self._permits(self._active, name, key, classes)):
            return True
        if self._active is None and not self._uses:
            return True
        return any(self._permitted_then(use, name, key, classes) for use in self._uses_at(time_ms))

    def could_change_since(self, name: str, key: bytes, since_ms: int) -> bool:
        """Return whether *name* may change *key*, now or at any time since *since_ms*."""
        if name == OPERATORS or self.may_change(name, key):
            return True
        if not self._uses or (self._uses[0].generation > 1 and self._uses[0].from_ms > since_ms):
            return True
        uses = (use for use in self._uses if (use.until_ms or since_ms) >= since_ms)
        return any(self._permitted_then(use, name, key, CHANGES) for use in uses)

    @cached_property
    def _history(self) -> dict[str, ActivePolicy]:
        return {item.digest: item for item in read_history(self._store)}

    @cached_property
    def _uses(self) -> list[PolicyUse]:
        recorded = read_activations(self._store)
        trimmed = (
            PolicyUse(item.generation, item.digest, item.actor, item.activated_ms, None, {})
            for item in self._history.values()
            if not recorded or item.activated_ms < recorded[0].from_ms
        )
        return in_sequence([*sorted(trimmed, key=lambda item: item.from_ms), *recorded])

    def _uses_at(self, time_ms: int) -> Iterator[PolicyUse]:
        """Yield the policy of that time; in the millisecond of an activation, both."""
        behind = bisect_right(self._uses, time_ms, key=lambda item: item.from_ms)
        begun = (self._uses[place] for place in range(behind - 1, -1, -1))
        return takewhile(lambda item: (item.until_ms or time_ms) >= time_ms, begun)

    def _permitted_then(
        self, use: PolicyUse, name: str, key: bytes, classes: frozenset[OperationClass]
    ) -> bool:
        policy = self._history.get(use.digest)
        try:
            return self._permits(policy, name, key, classes) if policy else name in use.rules
        except KeyleashError:
            # A policy of another version of keyleash.
            return name in use.rules

    def _permits(
        self, policy: ActivePolicy, name: str, key: bytes, classes: frozenset[OperationClass]
    ) -> bool:
        identities = _identities(policy.document)
        if isinstance(identities, KeyleashError):
            raise identities
        return name in identities and _may_use(identities[name], key, classes)


@lru_cache(maxsize=2 * KEPT_POLICIES)
def _identities(document: str) -> dict[str, Identity] | KeyleashError:
    try:
        policy = parse_policy(document, file="<policy>", commands=None)
    except KeyleashError as error:
        return error
    return {identity.name: identity for identity in policy.identities}


def _may_use(identity: Identity, key: bytes, classes: frozenset[OperationClass]) -> bool:
    """Return whether a grant of one of *classes* matches *key*, or may match the masked key."""
    if any(match(item, key) is not None for item in identity.denied_keys):
        return False
    granted = [
        pattern
        for grant in identity.grants
        if not classes.isdisjoint(grant.allow)
        for pattern in grant.keys
    ]
    if any(match(item, key) is not None for item in granted):
        return True
    mask = MASK.search(key)
    if mask is None:
        return False
    shown = key[: mask.start()]
    is_masked = any(beginning(item) == shown for item in identity.audit.mask_keys)
    return is_masked and any(key_test(item)(key) for item in granted)


class Trust:
    """Separates trusted events from untrusted ones, and counts the latter.

    `keys` are known key names, for events that record them masked.

    Attributes:
        untrusted: The number of untrusted events, by identity.
    """

    def __init__(self, grants: Grants, keys: Iterable[bytes] = ()) -> None:
        self.untrusted: collections.Counter[str] = collections.Counter()
        self._grants = grants
        self._unmasked = unmasked(keys)

    @classmethod
    def of(cls, store: Store, keys: Iterable[bytes] = ()) -> Trust:
        """Return a `Trust` that uses the policies of a server."""
        return cls(Grants(store), keys)

    def is_trusted(self, event: AuditEvent) -> bool:
        """Return whether a guard may have written *event*."""
        name, time_ms = event.identity, event.time_ms
        if self._grants.may_change_all(name):
            return True
        changed = changed_keys(event)
        is_trusted = all(
            self._grants.could_use(
                name, self._unmasked(key) or key, time_ms, CHANGES if key in changed else ANY_CLASS
            )
            for key in (changed if _names_no_keys(event) else event.keys)
        )
        self.untrusted[name] += not is_trusted
        return is_trusted

    def marked(self, entries: Iterable[Entry]) -> Iterator[Entry | AuditEvent]:
        """Yield *entries*, with untrusted events marked."""
        for entry in entries:
            if isinstance(entry, AuditEvent) and not self.is_trusted(entry):
                yield replace(entry, is_untrusted=True)
            else:
                yield entry


def _names_no_keys(event: AuditEvent) -> bool:
    """Return whether the command names channels, or the pattern of a SCAN, in place of keys."""
    spec = known_table().get(event.op)
    return event.op in INDEXES or (spec is not None and (spec.channel is not None or not spec.keys))


def nothing_trusted(untrusted: Mapping[str, int]) -> NothingToUndoError:
    """Return the error that all selected events are untrusted."""
    return NothingToUndoError(
        f"the selected events are untrusted: {untrusted_text(untrusted)}",
        help="no policy active at that time lets the identity change these keys, so its agent may"
        " have forged the events",
    )


def untrusted_text(untrusted: Mapping[str, int]) -> str:
    """Return the counts of untrusted events in words: `2 of `a`, 1 of `b``."""
    return ", ".join(f"{count} of `{name}`" for name, count in sorted(untrusted.items()) if count)
