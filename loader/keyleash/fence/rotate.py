"""Rotate the passwords of ACL users; two are valid until the rotation is finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keyleash.errors import KeyleashError
from keyleash.fence.acl import read_users, save, set_user
from keyleash.fence.apply import log_fence_action, require_none_foreign
from keyleash.fence.plan import FenceNode, why_foreign
from keyleash.fence.record import MOST, FenceRecord, write_record
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.store.identities import server_time_ms
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import database_of
from keyleash.store.token import reject_tokens


class RotationUnfinishedError(KeyleashError):
    """A user has two passwords already."""

    code = "rotation-unfinished"


class NotFencedError(KeyleashError):
    """An identity has no ACL user, or not on every server."""

    code = "not-fenced"


def add_passwords(
    nodes: Sequence[FenceNode],
    keyspace: Keyspace,
    records: Mapping[str, FenceRecord],
    hashes: Mapping[str, str],
    *,
    actor: str = "unknown",
) -> None:
    """
    Add a password to each user; the present one stays valid.

    Args:
        nodes: The servers; the first has the control keys.
        keyspace: Where these are.
        records: The records of the users.
        hashes: The new password's SHA-256 in hex, by identity.
        actor: The operator's name, for the control stream.

    Raises:
        RotationUnfinishedError: A user has two passwords already; nothing was changed.
        NotFencedError: An identity has no user; nothing was changed.
        ForeignUserError: A user was not made for this policy; nothing was changed.
    """
    reject_tokens(actor=actor)
    _require_ours(nodes[0], keyspace, records, list(hashes))
    for name in hashes:
        require_fenced(records, name)
        if len(records[name].passwords) >= MOST:
            raise RotationUnfinishedError(
                f"`{name}` has two passwords already",
                help=f"drop the older one with `keyleash fence rotate --finish {name}`",
            )
    _require_users(nodes, keyspace, records, list(hashes))
    client = nodes[0].client
    now_ms = server_time_ms(client)
    for name, sha256 in hashes.items():
        write_record(client, keyspace, name, records[name].with_password(sha256, now_ms))
    for node in nodes:
        for name, sha256 in hashes.items():
            set_user(node.client, name, ("on", f"#{sha256}"))
        save(node.client)
    log_fence_action(client, keyspace, "fence-rotate", actor, list(hashes))


def drop_old_passwords(
    nodes: Sequence[FenceNode],
    keyspace: Keyspace,
    records: Mapping[str, FenceRecord],
    identities: Sequence[str],
    *,
    actor: str = "unknown",
) -> list[str]:
    """
    Drop all but the newest password of each user; open connections remain.

    Returns:
        The identities that had an older password.

    Raises:
        NotFencedError: An identity has no user; nothing was changed.
        ForeignUserError: A user was not made for this policy; nothing was changed.
    """
    reject_tokens(actor=actor)
    _require_ours(nodes[0], keyspace, records, identities)
    for name in identities:
        require_fenced(records, name)
    _require_users(nodes, keyspace, records, identities)
    old = [name for name in identities if len(records[name].passwords) > 1]
    client = nodes[0].client
    for name in old:
        write_record(client, keyspace, name, records[name].newest_only())
    for node in nodes:
        for name in old:
            newest = records[name].newest_only().hashes
            set_user(node.client, name, ("resetpass", *(f"#{item}" for item in newest)))
        save(node.client)
    if old:
        log_fence_action(client, keyspace, "fence-rotate", actor, old)
    return old


def require_fenced(records: Mapping[str, FenceRecord], name: str) -> None:
    """
    Check that an identity has an ACL user.

    Raises:
        NotFencedError: It has none.
    """
    if name not in records:
        known = listing(sorted(records), SHOWN_IDENTITIES) or "none"
        raise NotFencedError(
            f"`{name}` has no ACL user made by keyleash",
            help=f"fenced identities: {known}; fence others with `keyleash fence apply`",
        )


def _require_ours(
    node: FenceNode, keyspace: Keyspace, records: Mapping[str, FenceRecord], names: Sequence[str]
) -> None:
    """
    Check that no foreign user has the name of an identity without a record.

    Raises:
        ForeignUserError: One has, such as a user of a policy in another database.
    """
    unknown = [name for name in names if name not in records]
    if not unknown:
        return
    database = database_of(node.client)
    foreign = {}
    for name, user in read_users(node.client, unknown).items():
        why = why_foreign(user, name, keyspace, database, None)
        if why is not None:
            foreign[node.name, name] = why
    require_none_foreign(foreign)


def _require_users(
    nodes: Sequence[FenceNode],
    keyspace: Keyspace,
    records: Mapping[str, FenceRecord],
    names: Sequence[str],
) -> None:
    database = database_of(nodes[0].client)
    foreign = {}
    for node in nodes:
        users = read_users(node.client, names)
        for name in names:
            if name not in users:
                raise NotFencedError(
                    f"{node.name} has no user `{name}`",
                    help="create it with `keyleash fence apply`",
                )
            why = why_foreign(users[name], name, keyspace, database, records[name])
            if why is not None:
                foreign[node.name, name] = why
    require_none_foreign(foreign)
