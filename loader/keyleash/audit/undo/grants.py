"""The policies of a server, and which keys they let identities change."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cache, cached_property, lru_cache
from itertools import takewhile

from keyleash.audit.control import PolicyUse, in_sequence, read_activations
from keyleash.audit.query import MASK, test_of
from keyleash.commands import OperationClass
from keyleash.compiler.templates import KEPT_POLICIES
from keyleash.errors import KeyleashError
from keyleash.policy import Identity, Policy, parse_policy
from keyleash.policy.patterns import beginning, match
from keyleash.protocol.active import ActivePolicy, Client, read_active
from keyleash.protocol.history import read_history
from keyleash.protocol.keyspace import OPERATORS, Keyspace

CHANGES = frozenset({OperationClass.WRITE, OperationClass.DELETE})
ANY = frozenset(OperationClass)


class Grants:
    """
    What the active policy and those before it grant.

    The active policy is read at once; the others when they are needed, which is seldom.
    """

    def __init__(self, client: Client, keyspace: Keyspace) -> None:
        self._client, self._keyspace = client, keyspace
        self._active = read_active(client, keyspace)
        self._identity = cache(_identity)

    def may_change(self, name: str, key: bytes) -> bool:
        """Return whether the active policy lets identity *name* write or delete *key*."""
        return self._active is not None and self._let(self._active, name, key, CHANGES)

    def could_use(
        self, name: str, key: bytes, time_ms: int, classes: frozenset[OperationClass] = CHANGES
    ) -> bool:
        """
        Return whether identity *name* may use *key* in some way, or might at a time.

        True as well if the policy of that time names the identity and is no longer kept, and if
        the server has no record of any policy.

        Args:
            name: The identity.
            key: The key, as it is recorded.
            time_ms: Server time, Unix milliseconds.
            classes: One of these is enough.
        """
        if name == OPERATORS or (self._active and self._let(self._active, name, key, classes)):
            return True
        if self._active is None and not self._uses:
            return True
        return any(self._let_then(one, name, key, classes) for one in self._uses_at(time_ms))

    def could_change_since(self, name: str, key: bytes, since_ms: int) -> bool:
        """Return whether *name* may change *key*, or might at any time since *since_ms*."""
        if name == OPERATORS or self.may_change(name, key):
            return True
        if not self._uses or (self._uses[0].generation > 1 and self._uses[0].from_ms > since_ms):
            return True
        uses = (one for one in self._uses if (one.until_ms or since_ms) >= since_ms)
        return any(self._let_then(one, name, key, CHANGES) for one in uses)

    @cached_property
    def _kept(self) -> dict[str, ActivePolicy]:
        return {one.digest: one for one in read_history(self._client, self._keyspace)}

    @cached_property
    def _uses(self) -> list[PolicyUse]:
        recorded = read_activations(self._client, self._keyspace)
        trimmed = (
            PolicyUse(one.generation, one.digest, one.actor, one.activated_ms, None, {})
            for one in self._kept.values()
            if not recorded or one.activated_ms < recorded[0].from_ms
        )
        return in_sequence([*sorted(trimmed, key=lambda one: one.from_ms), *recorded])

    def _uses_at(self, time_ms: int) -> Iterator[PolicyUse]:
        """What was active then: in the millisecond of an activation, both policies."""
        behind = bisect_right(self._uses, time_ms, key=lambda one: one.from_ms)
        begun = (self._uses[place] for place in range(behind - 1, -1, -1))
        return takewhile(lambda one: (one.until_ms or time_ms) >= time_ms, begun)

    def _let_then(
        self, use: PolicyUse, name: str, key: bytes, classes: frozenset[OperationClass]
    ) -> bool:
        policy = self._kept.get(use.digest)
        try:
            return self._let(policy, name, key, classes) if policy else name in use.rules
        except KeyleashError:
            # This version cannot read it.
            return name in use.rules

    def _let(
        self, policy: ActivePolicy, name: str, key: bytes, classes: frozenset[OperationClass]
    ) -> bool:
        identity = self._identity(policy.document, name)
        return identity is not None and _may_use(identity, key, classes)


def _identity(document: str, name: str) -> Identity | None:
    parsed = _parsed(document)
    if isinstance(parsed, KeyleashError):
        raise parsed
    return parsed.identity(name)


@lru_cache(maxsize=2 * KEPT_POLICIES)
def _parsed(document: str) -> Policy | KeyleashError:
    try:
        return parse_policy(document, file="<policy>", commands=None)
    except KeyleashError as error:
        return error


def _may_use(identity: Identity, key: bytes, classes: frozenset[OperationClass]) -> bool:
    """Whether a grant of one of *classes* has *key*, or may have it, if it is recorded masked."""
    if any(match(one, key) is not None for rule in identity.deny for one in rule.keys):
        return False
    granted = [
        pattern
        for grant in identity.grants
        if not classes.isdisjoint(grant.allow)
        for pattern in grant.keys
    ]
    if any(match(one, key) is not None for one in granted):
        return True
    mask = MASK.search(key)
    if mask is None:
        return False
    shown = key[: mask.start()]
    is_masked = any(beginning(one) == shown for one in identity.audit.mask_keys)
    return is_masked and any(test_of(one)(key) for one in granted)
