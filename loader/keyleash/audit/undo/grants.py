"""The grants of the active policy and of its predecessors."""

from __future__ import annotations

from functools import cached_property, lru_cache

from keyleash.audit.operator_actions import PolicyUse, in_sequence, read_activations
from keyleash.audit.read import MASK, key_test
from keyleash.audit.undo.history import CHANGES
from keyleash.errors import KeyleashError
from keyleash.policy import Identity, parse_policy
from keyleash.policy.patterns import beginning, match
from keyleash.store.keyspace import OPERATORS
from keyleash.store.records import ActivePolicy, read_active, read_history
from keyleash.store.scripts import KEPT_POLICIES
from keyleash.store.store import Store


class Grants:
    """The grants of the active policy and of its predecessors, which are read when needed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._active = read_active(store)

    def may_change(self, name: str, key: bytes) -> bool:
        """Return whether the active policy permits identity *name* to change *key*."""
        return self._active is not None and self._permits(self._active, name, key)

    def could_change_since(self, name: str, key: bytes, since_ms: int) -> bool:
        """Return whether *name* may change *key*, now or at any time since *since_ms*."""
        if name == OPERATORS or self.may_change(name, key):
            return True
        if not self._uses or (self._uses[0].generation > 1 and self._uses[0].from_ms > since_ms):
            return True
        uses = (use for use in self._uses if (use.until_ms or since_ms) >= since_ms)
        return any(self._permitted_then(use, name, key) for use in uses)

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

    def _permitted_then(self, use: PolicyUse, name: str, key: bytes) -> bool:
        policy = self._history.get(use.digest)
        try:
            return self._permits(policy, name, key) if policy else name in use.rules
        except KeyleashError:
            # A policy of another version of keyleash.
            return name in use.rules

    def _permits(self, policy: ActivePolicy, name: str, key: bytes) -> bool:
        identities = _identities(policy.document)
        if isinstance(identities, KeyleashError):
            raise identities
        return name in identities and _may_change(identities[name], key)


@lru_cache(maxsize=2 * KEPT_POLICIES)
def _identities(document: str) -> dict[str, Identity] | KeyleashError:
    try:
        policy = parse_policy(document, file="<policy>", commands=None)
    except KeyleashError as error:
        return error
    return {identity.name: identity for identity in policy.identities}


def _may_change(identity: Identity, key: bytes) -> bool:
    """Return whether a grant to write or delete matches *key*, or may match the masked key."""
    if any(match(item, key) is not None for item in identity.denied_keys):
        return False
    granted = [
        pattern
        for grant in identity.grants
        if not CHANGES.isdisjoint(grant.allow)
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
