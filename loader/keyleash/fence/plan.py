"""The steps from the present ACL users of servers to the desired ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from keyleash.fence.acl import Rules, User
from keyleash.fence.desired import DesiredUser
from keyleash.fence.rules import without_digests
from keyleash.fence.servers import FencedServers, FenceNode

SHOWN = 6
"""Maximum number of rule differences that are listed."""


class AclStepKind(StrEnum):
    """The action on a user."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    HELD = "held"
    """Not created for a reason that an operator must override."""
    FOREIGN = "foreign"
    """A user of that name was not made for this policy; it is left alone."""


CHANGES = frozenset({AclStepKind.CREATED, AclStepKind.CHANGED, AclStepKind.REMOVED})


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


def plan_fences(
    servers: FencedServers, users: Sequence[DesiredUser], *, wide: Collection[str] = ()
) -> tuple[AclStep, ...]:
    """
    Plan the actions on the users of all servers; nothing is changed.

    Args:
        servers: The servers and records; users of identities that left the policy are removed.
        users: One for each identity of the policy.
        wide: Identities that are fenced in spite of a blocker.
    """
    return tuple(step for node in servers.nodes for step in _plan_node(servers, node, users, wide))


def _plan_node(
    servers: FencedServers, node: FenceNode, users: Sequence[DesiredUser], wide: Collection[str]
) -> Iterator[AclStep]:
    names = [item.identity for item in users]
    leaving = [name for name in servers.records if name not in names]
    own, foreign = servers.users_of(node, [*names, *leaving])
    keyspace = servers.store.keys
    # Placeholders for the prefixes of a sealed server.
    secrets = {keyspace.prefix: "<control>:", keyspace.vault: "<vault>:"} if keyspace.vault else {}
    for item in users:
        name = item.identity
        if item.fence.blocker and name not in servers.records and name not in wide:
            yield AclStep(node, name, AclStepKind.HELD, (item.fence.blocker,))
        elif name in foreign:
            yield AclStep(node, name, AclStepKind.FOREIGN, (foreign[name],))
        elif name in own:
            yield _compare(node, item, own[name], secrets)
        else:
            yield AclStep(node, name, AclStepKind.CREATED, ("there is no such user",))
    for name in leaving:
        if name in own:
            yield AclStep(node, name, AclStepKind.REMOVED, ("it is not in the active policy",))


def _compare(node: FenceNode, item: DesiredUser, user: User, secrets: Mapping[str, str]) -> AclStep:
    desired = item.user
    is_without_digests = user.rules.meaning == without_digests(desired.rules).meaning
    reasons = []
    if not set(desired.passwords) <= set(user.passwords):
        reasons.append("it lacks a password")
    if not set(user.passwords) <= set(desired.passwords):
        reasons.append("it has an invalid password")
    if user.is_on and not desired.is_on:
        reasons.append("it is on, but has no password here")
    elif desired.is_on and not user.is_on:
        reasons.append("it is off")
    if user.is_open:
        reasons.append("it was opened: it needs no password, or has commands by category")
    if not is_without_digests and user.rules.meaning != desired.rules.meaning:
        reasons.append(_difference(user.rules, desired.rules, secrets))
    kind = AclStepKind.CHANGED if reasons else AclStepKind.UNCHANGED
    return AclStep(node, item.identity, kind, tuple(reasons), is_without_digests)


def _difference(present: Rules, desired: Rules, secrets: Mapping[str, str]) -> str:
    before, after = _words(present), _words(desired)
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
