"""The desired ACL users, and the steps from the present ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from keyleash.compiler import CompiledGuard
from keyleash.errors import OperationError
from keyleash.fence.acl import Rules, User, read_users
from keyleash.fence.record import FenceRecord, Password, tier_of
from keyleash.fence.rules import (
    Fence,
    ServerFacts,
    fence_of,
    record_calls,
    record_rule,
    selected_by,
    without_digests,
)
from keyleash.store.identities import active_records
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client, GuardRecord
from keyleash.store.server_check import operator_client

SHOWN = 6
"""Maximum number of rule differences that are listed."""


class AclStepKind(StrEnum):
    """The action on a user."""

    CREATED = "created"
    CHANGED = "changed"
    KEPT = "kept"
    REMOVED = "removed"
    HELD = "held"
    """Not created for a reason that an operator must override."""
    FOREIGN = "foreign"
    """A user of that name was not made for this policy; it is left alone."""


CHANGES = frozenset({AclStepKind.CREATED, AclStepKind.CHANGED, AclStepKind.REMOVED})


@dataclass(frozen=True, slots=True)
class FenceNode:
    """A server, and its name in messages."""

    name: str
    client: Client = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "client", operator_client(self.client))


@dataclass(frozen=True, slots=True)
class DesiredUser:
    """The desired user of an identity, and its desired record."""

    fence: Fence
    record: FenceRecord

    @property
    def user(self) -> User:
        """The user; without a password it is off, so that nobody can log in."""
        hashes = self.record.hashes
        return User(self.fence.rules, hashes, is_on=bool(hashes))


@dataclass(frozen=True, slots=True)
class AclStep:
    """
    The action on one user of one server.

    Attributes:
        reasons: Clauses for people.
        is_without_digests: Whether the server rejects digests in rules, so the user has none.
    """

    node: FenceNode
    identity: str
    kind: AclStepKind
    reasons: tuple[str, ...] = ()
    is_without_digests: bool = False


def why_foreign(
    user: User, identity: str, keyspace: Keyspace, database: int, record: FenceRecord | None
) -> str | None:
    """
    Return why a user does not belong to an identity of this policy; None if it does.

    Only users made by keyleash may read a guard record, and the rule for SELECT names the database
    of the policy: all databases of a server share its users. A user whose rules were changed by
    others still has a password of the record.
    """
    selected = selected_by(user.rules.root)
    if record_rule(keyspace.guard(identity)) in user.rules.root.keys:
        if selected == database:
            return None
        if selected is not None and not user.is_open:
            return f"it belongs to the policy in database {selected}"
    if record is not None and not set(record.hashes).isdisjoint(user.passwords):
        return None
    return "it was not made by keyleash"


def plan_node(
    node: FenceNode,
    keyspace: Keyspace,
    database: int,
    wanted: Sequence[DesiredUser],
    records: Mapping[str, FenceRecord],
    *,
    wide: Collection[str] = (),
) -> list[AclStep]:
    """
    Plan the actions on the users of a server; nothing is changed.

    Args:
        node: The server.
        keyspace: The keyspace of the control keys.
        database: The number of their database.
        wanted: One for each identity of the policy.
        records: The records of the users; those of identities that left the policy are removed.
        wide: Identities that are fenced in spite of a blocker.
    """
    desired = {item.fence.identity: item for item in wanted}
    leaving = [name for name in records if name not in desired]
    users = read_users(node.client, [*desired, *leaving])
    foreign = {
        name: why_foreign(user, name, keyspace, database, records.get(name))
        for name, user in users.items()
    }
    secrets = _secrets(keyspace)
    steps = [
        AclStep(node, name, AclStepKind.HELD, (item.fence.blocker,))
        if item.fence.blocker and name not in records and name not in wide
        else _step(node, item, users.get(name), foreign.get(name), secrets)
        for name, item in desired.items()
    ]
    for name in leaving:
        if name in users and foreign[name] is None:
            steps.append(
                AclStep(node, name, AclStepKind.REMOVED, ("it is not in the active policy",))
            )
    return steps


def _secrets(keyspace: Keyspace) -> dict[str, str]:
    """Return placeholders for the prefixes of a sealed server."""
    if not keyspace.vault:
        return {}
    return {keyspace.prefix: "<control>:", keyspace.vault: "<vault>:"}


def _step(
    node: FenceNode,
    wanted: DesiredUser,
    user: User | None,
    foreign: str | None,
    secrets: Mapping[str, str],
) -> AclStep:
    name = wanted.fence.identity
    if user is None:
        return AclStep(node, name, AclStepKind.CREATED, ("there is no such user",))
    if foreign is not None:
        return AclStep(node, name, AclStepKind.FOREIGN, (foreign,))
    desired = wanted.user
    is_without_digests = user.rules.meaning == without_digests(desired.rules).meaning
    reasons = tuple(_reasons(user, desired, secrets, with_rules=not is_without_digests))
    kind = AclStepKind.CHANGED if reasons else AclStepKind.KEPT
    return AclStep(node, name, kind, reasons, is_without_digests)


def _reasons(
    user: User, desired: User, secrets: Mapping[str, str], *, with_rules: bool
) -> list[str]:
    reasons = []
    added = set(desired.passwords) - set(user.passwords)
    gone = set(user.passwords) - set(desired.passwords)
    if added:
        reasons.append("it lacks a password")
    if gone:
        reasons.append("it has an invalid password")
    if user.is_on and not desired.is_on:
        reasons.append("it is on, but has no password here")
    elif desired.is_on and not user.is_on:
        reasons.append("it is off")
    if user.is_open:
        reasons.append("it was opened: it needs no password, or has commands by category")
    if with_rules and user.rules.meaning != desired.rules.meaning:
        reasons.append(_difference(user.rules, desired.rules, secrets))
    return reasons


def _difference(now: Rules, desired: Rules, secrets: Mapping[str, str]) -> str:
    before, after = _words(now), _words(desired)
    changes = [f"{word} is missing" for word in sorted(after - before)]
    changes += [f"{word} is extra" for word in sorted(before - after)]
    if not changes:
        return "its rules are grouped differently"
    rest = len(changes) - SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    text = f"its rules differ: {', '.join(changes[:SHOWN])}{more}"
    for secret, placeholder in secrets.items():
        text = text.replace(secret, placeholder)
    return text


def _words(rules: Rules) -> set[str]:
    return set(rules.root.words).union(*(selector.words for selector in rules.selectors))


def desired_users(
    client: Client,
    keyspace: Keyspace,
    guards: Sequence[CompiledGuard],
    facts: ServerFacts,
    records: Mapping[str, FenceRecord],
) -> list[DesiredUser]:
    """
    Return the desired user of each identity of the active policy, with its present passwords.

    Args:
        client: A client of the server with the control keys.
        keyspace: The keyspace of that server.
        guards: Compiled for that server.
        facts: The properties of all servers.
        records: The records of the users.

    Raises:
        OperationError (not-active-policy): A guard has other rules than the active one.
        OperationError (unsayable-pattern): ACL rules cannot express a pattern.
    """
    client = operator_client(client)
    active = _active(client, keyspace, guards)
    tier = tier_of(keyspace)
    return [
        DesiredUser(
            fence_of(guard, record_calls(record), facts),
            FenceRecord(
                tier, records[guard.identity].passwords if guard.identity in records else ()
            ),
        )
        for guard, record in zip(guards, active, strict=True)
    ]


def with_passwords(
    wanted: Sequence[DesiredUser], hashes: Mapping[str, str], now_ms: int
) -> list[DesiredUser]:
    """Return the users, with new passwords from *hashes* (SHA-256 in hex, by identity)."""
    return [
        DesiredUser(item.fence, FenceRecord(item.record.tier, (Password(hashes[name], now_ms),)))
        if (name := item.fence.identity) in hashes
        else item
        for item in wanted
    ]


def _active(
    client: Client, keyspace: Keyspace, guards: Sequence[CompiledGuard]
) -> list[GuardRecord]:
    records = active_records(client, keyspace, [guard.identity for guard in guards])
    for guard in guards:
        record = records.get(guard.identity)
        if record is None or record.policy_digest != guard.policy_digest:
            raise OperationError(
                "not-active-policy",
                f"the policy is not the active one: `{guard.identity}` has other rules",
                help="load it first with `keyleash load FILE`",
            )
    return [records[guard.identity] for guard in guards]
