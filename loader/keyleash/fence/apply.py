"""Apply, refresh and remove ACL users."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import ResponseError

from keyleash.compiler import CompiledGuard
from keyleash.errors import KeyleashError, OperationError, RulesRejectedError
from keyleash.fence.acl import Rules, Selector, User, read_users
from keyleash.fence.acl_steps import CHANGES, AclStep, AclStepKind, Fences, plan_fences
from keyleash.fence.desired import DesiredUser
from keyleash.fence.rules import Fence, fence_of, without_digests
from keyleash.fence.servers import (
    FencedServers,
    FencedUser,
    require_none_foreign,
    servers_with_users,
)
from keyleash.store.deployment import Server
from keyleash.store.fences import GeneratedPassword, forget_records, read_records, write_record
from keyleash.store.keyspace import Keyspace
from keyleash.store.server_check import Client
from keyleash.store.store import Store
from keyleash.store.streams import record_action
from keyleash.store.users import delete_users, may, save_users, set_user
from keyleash.text import json_object

ZERO_DIGEST = "0" * 40
"""The digest of no script."""

DENIED_CALLS = (
    ("SCAN", "0"), ("KEYS", "*"), ("EVAL", "return 1", "0"), ("SCRIPT", "LOAD", "return 1"),
    ("FUNCTION", "LIST"), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("CLIENT", "LIST"),
    ("MONITOR",), ("SLOWLOG", "GET"), ("SUBSCRIBE", "c"), ("FLUSHALL",), ("DEBUG", "OBJECT", "k"),
)  # fmt: skip
"""Calls that every fenced user must be denied."""
DENIED_ON_CLUSTERS = (("CLUSTER", "GETKEYSINSLOT", "0", "1"), ("CLUSTER", "RESET"))
"""The same on the nodes of a cluster."""


@dataclass(frozen=True, slots=True)
class FenceOutcome(Fences):
    """The result of `apply_fences`.

    Attributes:
        without_digests: Users whose server rejects digests in rules: these may call every script
            that is loaded there, with their own rights.
        unsaved: Names of servers that store users in memory only.
    """

    without_digests: tuple[FencedUser, ...]
    unsaved: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Return whether any user was changed."""
        return any(step.kind in CHANGES for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome, with the generated passwords, as `--json` prints it."""
        return json_object(
            self, "changed", "users=steps", "passwords", "notes", "without_digests", "unsaved"
        )


def apply_fences(
    servers: FencedServers,
    users: Sequence[DesiredUser],
    *,
    wide: Collection[str] = (),
    passwords: Sequence[GeneratedPassword] = (),
    announce: Callable[[Sequence[GeneratedPassword]], None] = lambda _passwords: None,
) -> FenceOutcome:
    """Create, change and delete the users of all servers as desired; this is idempotent.

    Args:
        users: One for each identity of the active policy.
        wide: Identities that are fenced in spite of a blocker.
        passwords: The generated passwords, for the outcome.
        announce: Called with them before the first change.

    Raises:
        ForeignUserError: A user is not of this policy; nothing was changed.
        OperationError (fence-not-verified): A user on a server is not as it was set.
    """
    steps = plan_fences(servers, users, wide=wide)
    require_none_foreign(
        {
            (step.node.name, step.identity): step.reasons[0]
            for step in steps
            if step.kind is AclStepKind.FOREIGN
        }
    )
    held = {step.identity for step in steps if step.kind is AclStepKind.HELD}
    desired = {item.identity: item for item in users if item.identity not in held}
    announce(passwords)
    # Records come first: a user without a record is managed by nothing.
    for name, item in desired.items():
        if servers.records.get(name) != item.record:
            write_record(servers.store, name, item.record)
    opened: list[FencedUser] = []
    unsaved = []
    for node in servers.nodes:
        here = set(_carry_out(node, [step for step in steps if step.node is node], desired))
        present = read_users(node.client, list(desired))
        for name, item in desired.items():
            wrong = _mismatch(node, servers.store.keys, item, present.get(name), name in here)
            if wrong:
                raise OperationError(
                    "fence-not-verified",
                    f"the user `{name}` of {node.name} is wrong: {wrong}",
                    help="compare with `ACL GETUSER` there, and check whether others change users",
                )
        opened += [FencedUser(node.name, name) for name in desired if name in here]
        if not save_users(node.client):
            unsaved.append(node.name)
    names = {item.identity for item in users}
    forget_records(servers.store, [name for name in servers.records if name not in names])
    changed = dict.fromkeys(step.identity for step in steps if step.kind in CHANGES)
    if changed:
        log_fence_action(servers, "fence", list(changed))
    return FenceOutcome(steps, tuple(users), tuple(passwords), tuple(opened), tuple(unsaved))


def log_fence_action(servers: FencedServers, event: str, identities: Sequence[str]) -> None:
    """Log an action on users in the control stream."""
    record_action(servers.store, event, identities=",".join(identities))


def _put_user(client: Client, name: str, user: User) -> bool:
    """Create or change a user in one step; return whether the server accepted the digests.

    First-argument rules such as `+evalsha|<digest>` are deprecated in Redis. A server that rejects
    them gets `+evalsha`.
    """
    try:
        set_user(client, name, user.words)
    except RulesRejectedError as rejected:
        try:
            set_user(client, name, replace(user, rules=without_digests(user.rules)).words)
        except RulesRejectedError:
            # The digests were not the reason.
            raise rejected from None
        return False
    return True


def _carry_out(
    node: Server, steps: Sequence[AclStep], desired: Mapping[str, DesiredUser]
) -> Iterator[str]:
    """Carry out the steps of a server; yield the identities whose digests it rejected."""
    for step in steps:
        # A server that rejected digests before may have been replaced.
        is_due = step.kind in (AclStepKind.CREATED, AclStepKind.CHANGED) or step.is_without_digests
        if is_due and not _put_user(node.client, step.identity, desired[step.identity].user):
            yield step.identity
    delete_users(node.client, [step.identity for step in steps if step.kind is AclStepKind.REMOVED])


def _mismatch(
    node: Server, keyspace: Keyspace, item: DesiredUser, user: User | None, is_opened: bool
) -> str | None:
    desired = item.user
    rules = without_digests(desired.rules) if is_opened else desired.rules
    if user is None:
        return "it is missing"
    if user.is_open or user.is_on != desired.is_on or user.rules.meaning != rules.meaning:
        return "it has other rules"
    if set(user.passwords) != set(desired.passwords):
        return "it has other passwords"
    command, _, digest = desired.rules.selectors[0].commands[0].partition("|")
    if not may(node.client, item.identity, command, digest, "0"):
        return "it may not call its own guard"
    denied = list[tuple[str, ...]](DENIED_CALLS)
    if keyspace.tag:
        denied += DENIED_ON_CLUSTERS
    if not is_opened:
        denied.append((command, ZERO_DIGEST, "0"))
    if item.fence.blocker is None:
        denied += [(name, keyspace.fence) for name in ("HGETALL", "GET", "DEL")]
        denied.append(("SET", keyspace.fence, "x"))
    return next(
        (f"it may do {call[0]}" for call in denied if may(node.client, item.identity, *call)), None
    )


def remove_fences(servers: FencedServers, identities: Sequence[str]) -> list[FencedUser]:
    """Delete the users and records of some identities, which closes their connections.

    A foreign user of such a name remains, and so does the record.

    Returns:
        The users that were deleted.

    Raises:
        ForeignUserError: A user is foreign, and may still log in; all others were deleted.
    """
    deleted = []
    foreign: dict[tuple[str, str], str] = {}
    for node in servers.nodes:
        own, others = servers.users_of(node, identities)
        foreign |= {(node.name, name): why for name, why in others.items()}
        delete_users(node.client, list(own))
        deleted += [FencedUser(node.name, name) for name in own]
        save_users(node.client)
    # Last: records of users that could not be deleted remain.
    left = {name for _, name in foreign}
    forget_records(servers.store, [name for name in identities if name not in left])
    if deleted:
        log_fence_action(servers, "fence-remove", identities)
    require_none_foreign(foreign)
    return deleted


@contextlib.contextmanager
def refreshed_users(
    store: Store, others: Sequence[Client], guards: Sequence[CompiledGuard]
) -> Iterator[None]:
    """Keep ACL users in step with an activation of *guards*, which runs in the block.

    Before the activation each user gets what the new guard needs in addition; afterwards what only
    the old one needed is removed. An agent that still calls the old script is then denied by the
    server, and its client looks the guard up again. An interrupted load leaves users too wide,
    which `keyleash fence plan` shows.

    Args:
        store: The server with the control keys.
        others: Further servers, which have ACL users of their own.
        guards: The guards of the new policy. Users of other identities are deleted.

    Raises:
        OperationError (unsayable-pattern): ACL rules cannot express a pattern; nothing was
            activated.
        OperationError (server-unreachable): A node of a cluster does not answer; nothing was
            activated.
    """
    records = read_records(store)
    if not records:
        yield
        return
    nodes = servers_with_users(store, others)
    servers = FencedServers(store, nodes, records)
    fences = [
        fence_of(guard, guard.scripts, servers.facts)
        for guard in guards
        if guard.identity in records
    ]
    refreshes = [_Refresh(servers, node, fences) for node in nodes]
    for refresh in refreshes:
        refresh.widen()
    try:
        yield
    except (KeyleashError, ResponseError):
        # The activation failed. After a lost connection the result is unknown, and both remain
        # allowed.
        for refresh in refreshes:
            refresh.undo()
        raise
    names = {guard.identity for guard in guards}
    gone = [name for name in records if name not in names]
    for node, refresh in zip(nodes, refreshes, strict=True):
        refresh.narrow()
        delete_users(node.client, list(servers.users_of(node, gone)[0]))
        save_users(node.client)
    forget_records(store, gone)


class _Refresh:
    """The users of one server during one load."""

    def __init__(self, servers: FencedServers, node: Server, fences: Sequence[Fence]) -> None:
        self._servers = servers
        self._node = node
        self._users, _ = servers.users_of(node, [fence.identity for fence in fences])
        # A load creates no users, and leaves foreign ones alone.
        self._fences = [fence for fence in fences if fence.identity in self._users]
        self._added: dict[str, tuple[Selector, ...]] = {}

    def widen(self) -> None:
        for fence in self._fences:
            name, rules = fence.identity, fence.rules
            known = {selector.meaning for selector in self._users[name].rules.selectors}
            added = tuple(item for item in rules.selectors if item.meaning not in known)
            if added:
                try:
                    set_user(self._node.client, name, map(str, added))
                except RulesRejectedError:
                    # See `_put_user`. The selector of script calls is the first, if it is added.
                    added = without_digests(Rules(rules.root, added)).selectors
                    set_user(self._node.client, name, map(str, added))
                self._added[name] = added

    def narrow(self) -> None:
        for fence in self._fences:
            user = replace(self._users[fence.identity], rules=fence.rules, is_open=False)
            _put_user(self._node.client, fence.identity, user)

    def undo(self) -> None:
        """Remove only what was added: another load may have added selectors, too."""
        present, _ = self._servers.users_of(self._node, list(self._added))
        for name, user in present.items():
            added = {item.meaning for item in self._added[name]}
            remaining = [item for item in user.rules.selectors if item.meaning not in added]
            rules = Rules(user.rules.root, tuple(remaining))
            set_user(self._node.client, name, replace(self._users[name], rules=rules).words)
