"""The desired ACL users, and the steps from the present ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from keyleash.compiler import CompiledGuard
from keyleash.errors import OperationError
from keyleash.fence.acl import Rules, Selector, User, read_users
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
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client, GuardRecord, guard_record
from keyleash.store.server_check import operator_client

SHOWN = 6
"""So many differences of rules are told one by one."""


class AclStepKind(StrEnum):
    """What happens to a user."""

    CREATED = "created"
    CHANGED = "changed"
    KEPT = "kept"
    REMOVED = "removed"
    HELD = "held"
    """It is not made, for a reason that a person must set aside."""
    FOREIGN = "foreign"
    """There is such a user, which was not made for this policy: it is left alone."""


CHANGES = frozenset({AclStepKind.CREATED, AclStepKind.CHANGED, AclStepKind.REMOVED})


@dataclass(frozen=True, slots=True)
class FenceNode:
    """A server, and how it may be called in messages."""

    name: str
    client: Client = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "client", operator_client(self.client))


@dataclass(frozen=True, slots=True)
class DesiredUser:
    """An identity's user as it is desired, and what is to be remembered of it."""

    fence: Fence
    record: FenceRecord

    @property
    def user(self) -> User:
        """Without a password it is off: nobody can log in."""
        hashes = self.record.hashes
        return User(self.fence.rules, hashes, is_on=bool(hashes))


@dataclass(frozen=True, slots=True)
class AclStep:
    """
    What happens to one user of one server.

    Attributes:
        reasons: Why, as clauses for a person.
        is_without_digests: It is kept as a server has it that refuses digests in rules.
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
    Return why a user is not the one of an identity of this policy, as a clause; None if it is.

    Only a user made by keyleash may read a guard record, and the rule for SELECT names the
    database of its policy: all databases of a server share its users. A user whose rules were
    changed since has a password of ours.
    """
    selected = selected_by(user.rules.root)
    if record_rule(keyspace.guard(identity)) in user.rules.root.keys:
        if selected == database:
            return None
        if selected is not None and not user.is_open:
            return f"it belongs to the policy in database {selected}"
    if record is not None and not set(record.hashes).isdisjoint(user.passwords):
        return None
    return "somebody else made it"


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
    Say what happens to the users of a server; it is not changed.

    Args:
        node: The server.
        keyspace: Where the control keys are.
        database: The number of their database.
        wanted: One for each identity of the policy.
        records: What is known of the users; those of identities that left the policy go.
        wide: Identities that are fenced although there is a blocker.
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
            steps.append(AclStep(node, name, AclStepKind.REMOVED, ("it is in no active policy",)))
    return steps


def _secrets(keyspace: Keyspace) -> dict[str, str]:
    """The prefixes of a sealed server, and what is shown for them."""
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
        reasons.append("a password is new")
    if gone:
        reasons.append("it has a password that is not valid any more")
    if user.is_on and not desired.is_on:
        reasons.append("it may log in and has no password here")
    elif desired.is_on and not user.is_on:
        reasons.append("it is off")
    if user.is_open:
        reasons.append("somebody opened it: it needs no password, or has commands by category")
    if with_rules and user.rules.meaning != desired.rules.meaning:
        reasons.append(_difference(user.rules, desired.rules, secrets))
    return reasons


def _difference(now: Rules, desired: Rules, secrets: Mapping[str, str]) -> str:
    before, after = _words(now), _words(desired)
    changes = [f"{word} is missing" for word in sorted(after - before)]
    changes += [f"{word} is too much" for word in sorted(before - after)]
    if not changes:
        return "its rules are grouped otherwise"
    rest = len(changes) - SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    said = f"its rules differ: {', '.join(changes[:SHOWN])}{more}"
    for secret, instead in secrets.items():
        said = said.replace(secret, instead)
    return said


def _words(rules: Rules) -> set[str]:
    def of(selector: Selector) -> set[str]:
        return set(selector.words)

    return of(rules.root).union(*map(of, rules.selectors))


def desired_users(
    client: Client,
    keyspace: Keyspace,
    guards: Sequence[CompiledGuard],
    facts: ServerFacts,
    records: Mapping[str, FenceRecord],
) -> list[DesiredUser]:
    """
    The user of each identity of the active policy, with the passwords that it has.

    Args:
        client: An operator's, of the server that has the control keys.
        keyspace: Where these are.
        guards: Compiled for that server.
        facts: Of all servers.
        records: What is known of the users.

    Raises:
        OperationError (not-active-policy): Some guard is of other rules than the active one.
        OperationError (unsayable-pattern): ACL rules cannot hold a pattern.
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
    """The same users, those in *hashes* with that password, as its SHA-256 in hex."""
    return [
        DesiredUser(item.fence, FenceRecord(item.record.tier, (Password(hashes[name], now_ms),)))
        if (name := item.fence.identity) in hashes
        else item
        for item in wanted
    ]


def _active(
    client: Client, keyspace: Keyspace, guards: Sequence[CompiledGuard]
) -> list[GuardRecord]:
    with client.pipeline(transaction=False) as pipe:
        for guard in guards:
            pipe.hgetall(keyspace.guard(guard.identity))
        raw = pipe.execute() if guards else []
    records = [guard_record(item) for item in raw]
    for guard, record in zip(guards, records, strict=True):
        if record is None or record.policy_digest != guard.policy_digest:
            raise OperationError(
                "not-active-policy",
                f"the policy is not the active one: `{guard.identity}` has other rules there",
                help="load it first with `keyleash load FILE`",
            )
    return [record for record in records if record is not None]
