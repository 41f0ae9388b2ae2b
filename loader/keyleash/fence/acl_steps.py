"""The steps from the present ACL users of servers to the desired ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from keyleash.fence.acl import Rules, User
from keyleash.fence.desired import DesiredUser, as_acl_file, as_redis_cli
from keyleash.fence.rules import without_digests
from keyleash.fence.servers import FencedServers, FencedUser
from keyleash.policy.problems import some
from keyleash.results import Result
from keyleash.store.deployment import Server
from keyleash.store.fences import GeneratedPassword
from keyleash.text import json_object

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
class AclStep(Result):
    """The action on one user of one server.

    Attributes:
        reasons: Clauses for people.
        is_without_digests: Whether the server rejects digests in rules, so the user has none.
    """

    node: Server
    identity: str
    kind: AclStepKind
    reasons: tuple[str, ...] = ()
    is_without_digests: bool = False

    @property
    def server(self) -> str:
        """The name of the server."""
        return self.node.name

    @property
    def has_digests(self) -> bool:
        """Return whether the user may call only its own guard."""
        return not self.is_without_digests

    def to_dict(self) -> dict[str, Any]:
        """Return the step as `--json` prints it."""
        return json_object(
            self, "server", "identity", "what=kind", "why=reasons", "digests=has_digests"
        )


@dataclass(frozen=True, slots=True)
class Fences(Result):
    """The desired users of all servers, and the action on each.

    Attributes:
        steps: One for each server and user.
        users: One for each identity of the policy.
        passwords: The generated passwords; they are stored nowhere else.
    """

    steps: tuple[AclStep, ...]
    users: tuple[DesiredUser, ...]
    passwords: tuple[GeneratedPassword, ...]

    @property
    def notes(self) -> tuple[dict[str, str], ...]:
        """The differences between users and policy: `identity`, `code`, `what`, `message`."""
        return tuple(
            {"identity": item.identity, **note._asdict()}
            for item in self.users
            for note in item.fence.notes
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        """The identities that get no user, sorted."""
        kinds = (AclStepKind.HELD, AclStepKind.FOREIGN)
        return tuple(sorted({step.identity for step in self.steps if step.kind in kinds}))

    @property
    def off(self) -> tuple[str, ...]:
        """The identities whose users cannot log in, because they have no password."""
        kinds = (AclStepKind.HELD, AclStepKind.FOREIGN)
        present = {step.identity for step in self.steps if step.kind not in kinds}
        return tuple(
            item.identity
            for item in self.users
            if not item.record.passwords and item.identity in present
        )


@dataclass(frozen=True, slots=True)
class FencePlan(Fences):
    """The actions that `Operator.fence.apply` would take.

    Attributes:
        servers: The servers and the present records.
        wide: Identities that are fenced although their patterns may match control keys.
        generation: The generation of the active policy.
    """

    servers: FencedServers = field(repr=False)
    wide: frozenset[str]
    generation: int

    @property
    def changes(self) -> bool:
        """Return whether a user has to be changed, or is foreign."""
        return any(step.kind in CHANGES or step.kind is AclStepKind.FOREIGN for step in self.steps)

    @property
    def without_digests(self) -> tuple[FencedUser, ...]:
        """The users that may call every script of their server, which rejects digests in rules."""
        return tuple(
            FencedUser(step.server, step.identity) for step in self.steps if step.is_without_digests
        )

    def as_text(self, form: str) -> str:
        """Return the users as lines of an ACL file (`acl`), or for `redis-cli`."""
        fenced = [item for item in self.users if item.identity not in self.left_out]
        return as_acl_file(fenced) if form == "acl" else as_redis_cli(fenced)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as `--json` prints it."""
        return json_object(self, "changes", "users=steps", "notes")


def plan_fences(
    servers: FencedServers, users: Sequence[DesiredUser], *, wide: Collection[str] = ()
) -> tuple[AclStep, ...]:
    """Plan the actions on the users of all servers; nothing is changed.

    Args:
        servers: The servers and records; users of identities that left the policy are removed.
        users: One for each identity of the policy.
        wide: Identities that are fenced in spite of a blocker.
    """
    return tuple(step for node in servers.nodes for step in _plan_node(servers, node, users, wide))


def _plan_node(
    servers: FencedServers, node: Server, users: Sequence[DesiredUser], wide: Collection[str]
) -> Iterator[AclStep]:
    names = [item.identity for item in users]
    leaving = [name for name in servers.records if name not in names]
    own, foreign = servers.users_of(node, [*names, *leaving])
    for item in users:
        name = item.identity
        if item.fence.blocker and name not in servers.records and name not in wide:
            yield AclStep(node, name, AclStepKind.HELD, (item.fence.blocker,))
        elif name in foreign:
            yield AclStep(node, name, AclStepKind.FOREIGN, (foreign[name],))
        elif name in own:
            yield _compare(node, item, own[name])
        else:
            yield AclStep(node, name, AclStepKind.CREATED, ("there is no such user",))
    for name in leaving:
        if name in own:
            yield AclStep(node, name, AclStepKind.REMOVED, ("it is not in the active policy",))


def _compare(node: Server, item: DesiredUser, user: User) -> AclStep:
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
        reasons.append(_difference(user.rules, desired.rules))
    kind = AclStepKind.CHANGED if reasons else AclStepKind.UNCHANGED
    return AclStep(node, item.identity, kind, tuple(reasons), is_without_digests)


def _difference(present: Rules, desired: Rules) -> str:
    before, after = _words(present), _words(desired)
    changes = [f"{word} is missing" for word in sorted(after - before)]
    changes += [f"{word} is extra" for word in sorted(before - after)]
    if not changes:
        return "its rules are grouped differently"
    return f"its rules differ: {some(changes, SHOWN)}"


def _words(rules: Rules) -> set[str]:
    return set(rules.root.words).union(*(selector.words for selector in rules.selectors))
