"""Making the users of all servers what they are meant to be, and looking whether they are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from keyleash.errors import KeyleashError
from keyleash.fence.acl import (
    RulesRefusedError,
    User,
    delete_users,
    may,
    read_users,
    save,
    set_user,
)
from keyleash.fence.plan import CHANGES, How, Node, Step, Wanted, plan_node
from keyleash.fence.record import Record, forget_records, write_record
from keyleash.fence.rules import without_digests
from keyleash.protocol.active import Client, database_of
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.token import reject_tokens

ZERO_DIGEST = "0" * 40
"""No script's."""

REFUSED_CALLS = (
    ("SCAN", "0"), ("KEYS", "*"), ("EVAL", "return 1", "0"), ("SCRIPT", "LOAD", "return 1"),
    ("FUNCTION", "LIST"), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("CLIENT", "LIST"),
    ("MONITOR",), ("SLOWLOG", "GET"), ("SUBSCRIBE", "c"), ("FLUSHALL",), ("DEBUG", "OBJECT", "k"),
)  # fmt: skip
"""What no fenced user may do, whatever its policy."""


class ForeignUserError(KeyleashError):
    """A server has a user of an identity's name that was not made for its policy."""

    code = "foreign-user"


class FenceNotVerifiedError(KeyleashError):
    """A user is not what it was made to be, as its server tells."""

    code = "fence-not-verified"


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What was done.

    Attributes:
        steps: For each server and identity.
        without_digests: Users whose server refuses digests in rules, as (server, identity): these
            may call every script that is loaded there, with their own rights.
        unsaved: Names of servers that keep users in memory alone.
    """

    steps: tuple[Step, ...]
    without_digests: tuple[tuple[str, str], ...]
    unsaved: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether anything was."""
        return any(step.how in CHANGES for step in self.steps)


def apply_fences(
    nodes: Sequence[Node],
    keyspace: Keyspace,
    wanted: Sequence[Wanted],
    records: Mapping[str, Record],
    *,
    wide: Collection[str] = (),
    actor: str = "unknown",
) -> Outcome:
    """
    Make the users of all *nodes* what they are meant to be; a second time, nothing changes.

    Args:
        nodes: The servers; the first has the control keys.
        keyspace: Where these are.
        wanted: One for each identity of the active policy.
        records: What is known of the users so far.
        wide: Identities that are fenced although there is a hindrance.
        actor: Who does it, for the control stream.

    Raises:
        ForeignUserError: There is a user that is not of this policy; nothing was changed.
        FenceNotVerifiedError: A server tells of a user that it is not what it was made.
    """
    reject_tokens(actor=actor)
    database = database_of(nodes[0].client)
    plans = [plan_node(node, keyspace, database, wanted, records, wide=wide) for node in nodes]
    steps = tuple(step for plan in plans for step in plan)
    require_none_foreign(
        {
            (step.node.name, step.identity): step.reasons[0]
            for step in steps
            if step.how is How.FOREIGN
        }
    )
    held = {step.identity for step in steps if step.how is How.HELD}
    meant = {one.fence.identity: one for one in wanted if one.fence.identity not in held}
    client = nodes[0].client
    # First what is remembered: a user that nobody remembers would be looked after by nobody.
    for name, one in meant.items():
        if records.get(name) != one.record:
            write_record(client, keyspace, name, one.record)
    opened: list[tuple[str, str]] = []
    unsaved = []
    for node, plan in zip(nodes, plans, strict=True):
        opened += [(node.name, name) for name in _carry_out(node, plan, meant)]
        _verify(node, keyspace, meant, {name for at, name in opened if at == node.name})
        if not save(node.client):
            unsaved.append(node.name)
    forget_records(
        client, keyspace, tuple(name for name in records if name not in set(_names(wanted)))
    )
    outcome = Outcome(steps, tuple(opened), tuple(unsaved))
    if outcome.changed:
        note_event(client, keyspace, "fence", actor, _changed(steps))
    return outcome


def note_event(
    client: Client, keyspace: Keyspace, event: str, actor: str, identities: Sequence[str]
) -> None:
    """Tell in the control stream what was done to the users of some identities."""
    fields = {"event": event, "actor": actor, "identities": ",".join(identities)}
    client.xadd(keyspace.control, fields)


def put_user(client: Client, name: str, user: User) -> bool:
    """
    Make a user what it is meant to be, at once.

    First-argument rules such as `+evalsha|<digest>` are deprecated in Redis. A server that
    refuses them gets `+evalsha`.

    Returns:
        Whether the server took the digests.
    """
    try:
        set_user(client, name, user.words)
    except RulesRefusedError as refused:
        open_user = replace(user, rules=without_digests(user.rules))
        try:
            set_user(client, name, open_user.words)
        except RulesRefusedError:
            # It was not about the digests.
            raise refused from None
        return False
    return True


def _carry_out(node: Node, plan: Sequence[Step], meant: Mapping[str, Wanted]) -> Iterator[str]:
    """Do what is planned for a server; yields those whose digests it refused."""
    for step in plan:
        # A server that refused digests once may have been replaced by one that takes them.
        is_due = step.how in (How.CREATED, How.CHANGED) or step.is_without_digests
        if is_due and not put_user(node.client, step.identity, meant[step.identity].user):
            yield step.identity
    delete_users(node.client, [step.identity for step in plan if step.how is How.REMOVED])


def _verify(
    node: Node, keyspace: Keyspace, meant: Mapping[str, Wanted], opened: Collection[str]
) -> None:
    users = read_users(node.client, list(meant))
    for name, one in meant.items():
        wrong = _what_is_wrong(node.client, keyspace, one, users.get(name), name in opened)
        if wrong:
            raise FenceNotVerifiedError(
                f"the user `{name}` of {node.name} is not what it was made to be: {wrong}",
                help="look at `ACL GETUSER` there, and whether somebody else changes users",
            )


def _what_is_wrong(
    client: Client, keyspace: Keyspace, wanted: Wanted, user: User | None, is_opened: bool
) -> str | None:
    meant = wanted.user
    rules = without_digests(meant.rules) if is_opened else meant.rules
    if user is None:
        return "it is not there"
    if user.is_open or user.is_on != meant.is_on or user.rules.meaning != rules.meaning:
        return "it has other rules"
    if set(user.passwords) != set(meant.passwords):
        return "it has other passwords"
    name = wanted.fence.identity
    command, _, digest = meant.rules.selectors[0].commands[0].partition("|")
    if not may(client, name, command, digest, "0"):
        return "it may not call its own guard"
    refused = list(REFUSED_CALLS)
    if not is_opened:
        refused.append((command, ZERO_DIGEST, "0"))
    if wanted.fence.hindrance is None:
        refused += (
            ("HGETALL", keyspace.fence),
            ("GET", keyspace.fence),
            ("SET", keyspace.fence, "x"),
            ("DEL", keyspace.fence),
        )
    return next((f"it may do {one[0]}" for one in refused if may(client, name, *one)), None)


def require_none_foreign(users: Mapping[tuple[str, str], str]) -> None:
    """
    Insist that there are none of these users.

    Args:
        users: Why each is not ours, by (server, identity).

    Raises:
        ForeignUserError: There are.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for (server, identity), why in users.items():
        alike.setdefault((server, why), []).append(f"`{identity}`")
    if alike:
        foreign = [
            f"{', '.join(names)} of {server}: {why}" for (server, why), names in alike.items()
        ]
        raise ForeignUserError(
            f"not a user of this policy: {'; '.join(foreign)}",
            help="all databases of a server share its ACL users: rename the identity or the user,"
            " or delete the user with `ACL DELUSER NAME`",
        )


def _changed(steps: Sequence[Step]) -> list[str]:
    return list(dict.fromkeys(step.identity for step in steps if step.how in CHANGES))


def _names(wanted: Sequence[Wanted]) -> Iterator[str]:
    return (one.fence.identity for one in wanted)
