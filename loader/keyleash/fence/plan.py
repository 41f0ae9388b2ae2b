"""What has to be done to the users of a server so that they are as they are meant."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from keyleash.fence.acl import Rules, Selector, User, read_users
from keyleash.fence.record import Record
from keyleash.fence.rules import Fence, record_rule, selected_by, without_digests
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client

SHOWN = 6
"""So many differences of rules are told one by one."""


class How(StrEnum):
    """What happens to a user."""

    CREATED = "created"
    CHANGED = "changed"
    KEPT = "kept"
    REMOVED = "removed"
    HELD = "held"
    """It is not made, for a reason that a person must set aside."""
    FOREIGN = "foreign"
    """There is such a user, which was not made for this policy: it is left alone."""


CHANGES = frozenset({How.CREATED, How.CHANGED, How.REMOVED})


@dataclass(frozen=True, slots=True)
class Node:
    """A server, and how it may be called in messages."""

    name: str
    client: Client = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "client", operator_client(self.client))


@dataclass(frozen=True, slots=True)
class Wanted:
    """An identity's user as it is meant, and what is to be remembered of it."""

    fence: Fence
    record: Record

    @property
    def user(self) -> User:
        """Without a password it is off: nobody can log in."""
        hashes = self.record.hashes
        return User(self.fence.rules, hashes, is_on=bool(hashes))


@dataclass(frozen=True, slots=True)
class Step:
    """
    What happens to one user of one server.

    Attributes:
        reasons: Why, as clauses for a person.
        is_without_digests: It is kept as a server has it that refuses digests in rules.
    """

    node: Node
    identity: str
    how: How
    reasons: tuple[str, ...] = ()
    is_without_digests: bool = False


def why_foreign(
    user: User, identity: str, keyspace: Keyspace, database: int, record: Record | None
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
    node: Node,
    keyspace: Keyspace,
    database: int,
    wanted: Sequence[Wanted],
    records: Mapping[str, Record],
    *,
    wide: Collection[str] = (),
) -> list[Step]:
    """
    Say what happens to the users of a server; it is not changed.

    Args:
        node: The server.
        keyspace: Where the control keys are.
        database: The number of their database.
        wanted: One for each identity of the policy.
        records: What is known of the users; those of identities that left the policy go.
        wide: Identities that are fenced although there is a hindrance.
    """
    meant = {one.fence.identity: one for one in wanted}
    leaving = [name for name in records if name not in meant]
    users = read_users(node.client, [*meant, *leaving])
    foreign = {
        name: why_foreign(user, name, keyspace, database, records.get(name))
        for name, user in users.items()
    }
    secrets = _secrets(keyspace)
    steps = [
        Step(node, name, How.HELD, (one.fence.hindrance,))
        if one.fence.hindrance and name not in records and name not in wide
        else _step(node, one, users.get(name), foreign.get(name), secrets)
        for name, one in meant.items()
    ]
    for name in leaving:
        if name in users and foreign[name] is None:
            steps.append(Step(node, name, How.REMOVED, ("it is in no active policy",)))
    return steps


def _secrets(keyspace: Keyspace) -> dict[str, str]:
    """The prefixes of a sealed server, and what is shown for them."""
    if not keyspace.vault:
        return {}
    return {keyspace.prefix: "<control>:", keyspace.vault: "<vault>:"}


def _step(
    node: Node, wanted: Wanted, user: User | None, foreign: str | None, secrets: Mapping[str, str]
) -> Step:
    name = wanted.fence.identity
    if user is None:
        return Step(node, name, How.CREATED, ("there is no such user",))
    if foreign is not None:
        return Step(node, name, How.FOREIGN, (foreign,))
    meant = wanted.user
    is_without_digests = user.rules.meaning == without_digests(meant.rules).meaning
    reasons = tuple(_reasons(user, meant, secrets, with_rules=not is_without_digests))
    how = How.CHANGED if reasons else How.KEPT
    return Step(node, name, how, reasons, is_without_digests)


def _reasons(user: User, meant: User, secrets: Mapping[str, str], *, with_rules: bool) -> list[str]:
    reasons = []
    added = set(meant.passwords) - set(user.passwords)
    gone = set(user.passwords) - set(meant.passwords)
    if added:
        reasons.append("a password is new")
    if gone:
        reasons.append("it has a password that is not valid any more")
    if user.is_on and not meant.is_on:
        reasons.append("it may log in and has no password here")
    elif meant.is_on and not user.is_on:
        reasons.append("it is off")
    if user.is_open:
        reasons.append("somebody opened it: it needs no password, or has commands by category")
    if with_rules and user.rules.meaning != meant.rules.meaning:
        reasons.append(_difference(user.rules, meant.rules, secrets))
    return reasons


def _difference(now: Rules, meant: Rules, secrets: Mapping[str, str]) -> str:
    before, after = _words(now), _words(meant)
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
