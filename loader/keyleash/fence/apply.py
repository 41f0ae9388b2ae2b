"""Apply, refresh and remove ACL users."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from redis.exceptions import ResponseError

from keyleash.compiler import CompiledGuard
from keyleash.errors import KeyleashError, OperationError
from keyleash.fence.acl import (
    Rules,
    RulesRejectedError,
    Selector,
    User,
    delete_users,
    may,
    read_users,
    save,
    set_user,
)
from keyleash.fence.plan import (
    CHANGES,
    AclStep,
    AclStepKind,
    DesiredUser,
    FenceNode,
    plan_node,
    why_foreign,
)
from keyleash.fence.record import FenceRecord, forget_records, read_records, write_record
from keyleash.fence.rules import Fence, fence_of, read_server_facts, script_calls, without_digests
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client, database_of
from keyleash.store.token import reject_tokens
from keyleash.store.wire import Transport

ZERO_DIGEST = "0" * 40
"""The digest of no script."""

DENIED_CALLS = (
    ("SCAN", "0"), ("KEYS", "*"), ("EVAL", "return 1", "0"), ("SCRIPT", "LOAD", "return 1"),
    ("FUNCTION", "LIST"), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("CLIENT", "LIST"),
    ("MONITOR",), ("SLOWLOG", "GET"), ("SUBSCRIBE", "c"), ("FLUSHALL",), ("DEBUG", "OBJECT", "k"),
)  # fmt: skip
"""Calls that every fenced user must be denied."""


class ForeignUserError(KeyleashError):
    """A server has a user with the name of an identity that was not made for its policy."""

    code = "foreign-user"


@dataclass(frozen=True, slots=True)
class FenceOutcome:
    """
    The result of `apply_fences`.

    Attributes:
        steps: One for each server and identity.
        without_digests: (server, identity) of users whose server rejects digests in rules: these
            may call every script that is loaded there, with their own rights.
        unsaved: Names of servers that store users in memory only.
    """

    steps: tuple[AclStep, ...]
    without_digests: tuple[tuple[str, str], ...]
    unsaved: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Return whether any user was changed."""
        return any(step.kind in CHANGES for step in self.steps)


def apply_fences(
    nodes: Sequence[FenceNode],
    keyspace: Keyspace,
    wanted: Sequence[DesiredUser],
    records: Mapping[str, FenceRecord],
    *,
    wide: Collection[str] = (),
    actor: str = "unknown",
) -> FenceOutcome:
    """
    Create, change and delete the users of all *nodes* as desired; this is idempotent.

    Args:
        nodes: The servers; the first has the control keys.
        keyspace: The keyspace of the control keys.
        wanted: One for each identity of the active policy.
        records: The records of the users.
        wide: Identities that are fenced in spite of a blocker.
        actor: The operator's name, for the control stream.

    Raises:
        ForeignUserError: A user is not of this policy; nothing was changed.
        OperationError (fence-not-verified): A user on a server is not as it was set.
    """
    reject_tokens(actor=actor)
    database = database_of(nodes[0].client)
    plans = [plan_node(node, keyspace, database, wanted, records, wide=wide) for node in nodes]
    steps = tuple(step for plan in plans for step in plan)
    require_none_foreign(
        {
            (step.node.name, step.identity): step.reasons[0]
            for step in steps
            if step.kind is AclStepKind.FOREIGN
        }
    )
    held = {step.identity for step in steps if step.kind is AclStepKind.HELD}
    desired = {item.fence.identity: item for item in wanted if item.fence.identity not in held}
    client = nodes[0].client
    # Records come first: a user without a record is managed by nothing.
    for name, item in desired.items():
        if records.get(name) != item.record:
            write_record(client, keyspace, name, item.record)
    opened: list[tuple[str, str]] = []
    unsaved = []
    for node, plan in zip(nodes, plans, strict=True):
        opened += [(node.name, name) for name in _carry_out(node, plan, desired)]
        _verify(node, keyspace, desired, {name for at, name in opened if at == node.name})
        if not save(node.client):
            unsaved.append(node.name)
    names = {item.fence.identity for item in wanted}
    forget_records(client, keyspace, tuple(name for name in records if name not in names))
    outcome = FenceOutcome(steps, tuple(opened), tuple(unsaved))
    if outcome.changed:
        changed = dict.fromkeys(step.identity for step in steps if step.kind in CHANGES)
        log_fence_action(client, keyspace, "fence", actor, list(changed))
    return outcome


def log_fence_action(
    client: Client, keyspace: Keyspace, event: str, actor: str, identities: Sequence[str]
) -> None:
    """Log an action on users in the control stream."""
    fields = {"event": event, "actor": actor, "identities": ",".join(identities)}
    client.xadd(keyspace.control, fields)


def put_user(client: Client, name: str, user: User) -> bool:
    """
    Create or change a user in one step.

    First-argument rules such as `+evalsha|<digest>` are deprecated in Redis. A server that rejects
    them gets `+evalsha`.

    Returns:
        Whether the server accepted the digests.
    """
    try:
        set_user(client, name, user.words)
    except RulesRejectedError as rejected:
        open_user = replace(user, rules=without_digests(user.rules))
        try:
            set_user(client, name, open_user.words)
        except RulesRejectedError:
            # The digests were not the reason.
            raise rejected from None
        return False
    return True


def _carry_out(
    node: FenceNode, plan: Sequence[AclStep], desired: Mapping[str, DesiredUser]
) -> Iterator[str]:
    """Carry out the plan of a server; yield the identities whose digests it rejected."""
    for step in plan:
        # A server that rejected digests before may have been replaced.
        is_due = step.kind in (AclStepKind.CREATED, AclStepKind.CHANGED) or step.is_without_digests
        if is_due and not put_user(node.client, step.identity, desired[step.identity].user):
            yield step.identity
    delete_users(node.client, [step.identity for step in plan if step.kind is AclStepKind.REMOVED])


def _verify(
    node: FenceNode, keyspace: Keyspace, desired: Mapping[str, DesiredUser], opened: Collection[str]
) -> None:
    users = read_users(node.client, list(desired))
    for name, item in desired.items():
        wrong = _mismatch(node.client, keyspace, item, users.get(name), name in opened)
        if wrong:
            raise OperationError(
                "fence-not-verified",
                f"the user `{name}` of {node.name} is wrong: {wrong}",
                help="compare with `ACL GETUSER` there, and check whether others change users",
            )


def _mismatch(
    client: Client, keyspace: Keyspace, wanted: DesiredUser, user: User | None, is_opened: bool
) -> str | None:
    desired = wanted.user
    rules = without_digests(desired.rules) if is_opened else desired.rules
    if user is None:
        return "it is missing"
    if user.is_open or user.is_on != desired.is_on or user.rules.meaning != rules.meaning:
        return "it has other rules"
    if set(user.passwords) != set(desired.passwords):
        return "it has other passwords"
    name = wanted.fence.identity
    command, _, digest = desired.rules.selectors[0].commands[0].partition("|")
    if not may(client, name, command, digest, "0"):
        return "it may not call its own guard"
    denied = list(DENIED_CALLS)
    if not is_opened:
        denied.append((command, ZERO_DIGEST, "0"))
    if wanted.fence.blocker is None:
        denied += (
            ("HGETALL", keyspace.fence),
            ("GET", keyspace.fence),
            ("SET", keyspace.fence, "x"),
            ("DEL", keyspace.fence),
        )
    return next((f"it may do {item[0]}" for item in denied if may(client, name, *item)), None)


def require_none_foreign(users: Mapping[tuple[str, str], str]) -> None:
    """
    Check that no user is foreign.

    Args:
        users: The reason why each is foreign, by (server, identity).

    Raises:
        ForeignUserError: One is.
    """
    by_reason: dict[tuple[str, str], list[str]] = {}
    for (server, identity), why in users.items():
        by_reason.setdefault((server, why), []).append(f"`{identity}`")
    if by_reason:
        foreign = [
            f"{', '.join(names)} of {server}: {why}" for (server, why), names in by_reason.items()
        ]
        raise ForeignUserError(
            f"not a user of this policy: {'; '.join(foreign)}",
            help="all databases of a server share its ACL users: rename the identity or the user,"
            " or delete the user with `ACL DELUSER NAME`",
        )


def remove_fences(
    nodes: Sequence[FenceNode],
    keyspace: Keyspace,
    records: Mapping[str, FenceRecord],
    identities: Sequence[str],
    *,
    actor: str = "unknown",
) -> list[tuple[str, str]]:
    """
    Delete the users and records of some identities, which closes their connections.

    A foreign user of such a name remains, and so does the record.

    Args:
        nodes: The servers; the first has the control keys.
        keyspace: The keyspace of the control keys.
        records: The records of the users.
        identities: The identities.
        actor: The operator's name, for the control stream.

    Returns:
        (server, identity) of each user that was deleted.

    Raises:
        ForeignUserError: A user is foreign, and may still log in; all others were deleted.
    """
    reject_tokens(actor=actor)
    deleted = []
    foreign: dict[tuple[str, str], str] = {}
    database = database_of(nodes[0].client)
    for node in nodes:
        ours = []
        for name, user in read_users(node.client, identities).items():
            why = why_foreign(user, name, keyspace, database, records.get(name))
            if why is None:
                ours.append(name)
            else:
                foreign[node.name, name] = why
        delete_users(node.client, ours)
        deleted += [(node.name, name) for name in ours]
        save(node.client)
    # Last: records of users that could not be deleted remain.
    left = {name for _, name in foreign}
    forget_records(
        nodes[0].client,
        keyspace,
        tuple(identity for identity in identities if identity not in left),
    )
    if deleted:
        log_fence_action(nodes[0].client, keyspace, "fence-remove", actor, identities)
    require_none_foreign(foreign)
    return deleted


@contextlib.contextmanager
def refreshed_users(
    clients: Sequence[Client],
    keyspace: Keyspace,
    guards: Sequence[CompiledGuard],
    transport: Transport,
    records: Mapping[str, FenceRecord] | None = None,
) -> Iterator[None]:
    """
    Keep ACL users in step with an activation of *guards*, which runs in the block.

    Before the activation each user gets what the new guard needs in addition; afterwards what only
    the old one needed is removed. An agent that still calls the old script is then denied by the
    server, and its client looks the guard up again. An interrupted load leaves users too wide,
    which `keyleash fence plan` shows.

    Args:
        clients: One for each server with users; the first has the control keys.
        keyspace: The keyspace of the control keys.
        guards: The guards of the new policy. Users of other identities are deleted.
        transport: The transport of the new policy.
        records: The records of the users; they are read if None.

    Raises:
        OperationError (unsayable-pattern): ACL rules cannot express a pattern; nothing was
            activated.
    """
    if records is None:
        records = read_records(clients[0], keyspace)
    if not records:
        yield
        return
    facts = read_server_facts(clients, keyspace)
    fences = [
        fence_of(guard, script_calls(guard, transport), facts)
        for guard in guards
        if guard.identity in records
    ]
    nodes = [_Refresh(client, keyspace, facts.database, records, fences) for client in clients]
    for node in nodes:
        node.widen()
    try:
        yield
    except (KeyleashError, ResponseError):
        # The activation failed. After a lost connection the result is unknown, and both remain
        # allowed.
        for node in nodes:
            node.give_up()
        raise
    names = {guard.identity for guard in guards}
    gone = tuple(name for name in records if name not in names)
    for node in nodes:
        node.narrow()
        node.delete(gone)
        save(node.client)
    forget_records(clients[0], keyspace, gone)


class _Refresh:
    """The users of one server during one load."""

    def __init__(
        self,
        client: Client,
        keyspace: Keyspace,
        database: int,
        records: Mapping[str, FenceRecord],
        fences: Sequence[Fence],
    ) -> None:
        self.client = client
        self._keyspace = keyspace
        self._database = database
        self._records = records
        self._users = self._ours([fence.identity for fence in fences])
        # A load creates no users, and leaves foreign ones alone.
        self._fences = [fence for fence in fences if fence.identity in self._users]
        self._added: dict[str, list[Selector]] = {}

    def widen(self) -> None:
        for fence in self._fences:
            known = {selector.meaning for selector in self._users[fence.identity].rules.selectors}
            added = [
                selector for selector in fence.rules.selectors if selector.meaning not in known
            ]
            if added:
                self._added[fence.identity] = self._add(fence, added)

    def _add(self, fence: Fence, added: list[Selector]) -> list[Selector]:
        try:
            set_user(self.client, fence.identity, map(str, added))
        except RulesRejectedError:
            # See `put_user`. The selector of script calls is the first, if it is among them.
            plain = without_digests(Rules(fence.rules.root, tuple(added))).selectors
            set_user(self.client, fence.identity, map(str, plain))
            return list(plain)
        return added

    def narrow(self) -> None:
        for fence in self._fences:
            put_user(self.client, fence.identity, self._with(fence.identity, fence.rules))

    def give_up(self) -> None:
        """Remove only what was added: another load may have added selectors, too."""
        now = self._ours(list(self._added))
        for name, user in now.items():
            added = {item.meaning for item in self._added[name]}
            kept = tuple(
                selector for selector in user.rules.selectors if selector.meaning not in added
            )
            set_user(self.client, name, self._with(name, Rules(user.rules.root, kept)).words)

    def delete(self, identities: Sequence[str]) -> None:
        delete_users(self.client, list(self._ours(identities)))

    def _with(self, identity: str, rules: Rules) -> User:
        """Return the user with other rules."""
        user = self._users[identity]
        return User(rules, user.passwords, user.is_on)

    def _ours(self, identities: Sequence[str]) -> dict[str, User]:
        users = read_users(self.client, list(identities))
        return {
            name: user
            for name, user in users.items()
            if why_foreign(user, name, self._keyspace, self._database, self._records.get(name))
            is None
        }
