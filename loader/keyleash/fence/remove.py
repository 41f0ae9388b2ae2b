"""Taking users away; their connections end with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keyleash.fence.acl import delete_users, read_users, save
from keyleash.fence.apply import note_event
from keyleash.fence.plan import Node, is_ours
from keyleash.fence.record import Record, forget_records
from keyleash.protocol.keyspace import Keyspace


def remove_fences(
    nodes: Sequence[Node],
    keyspace: Keyspace,
    records: Mapping[str, Record],
    identities: Sequence[str],
    *,
    actor: str = "unknown",
) -> list[tuple[str, str]]:
    """
    Delete the users of some identities, which closes their connections, and forget them.

    A user of such a name that keyleash did not make stays.

    Args:
        nodes: The servers; the first has the control keys.
        keyspace: Where these are.
        records: What is known of the users.
        identities: Whose.
        actor: Who does it, for the control stream.

    Returns:
        (server, identity) of each user that was deleted.
    """
    deleted = []
    for node in nodes:
        users = read_users(node.client, identities)
        ours = [
            name for name, user in users.items() if is_ours(user, name, keyspace, records.get(name))
        ]
        delete_users(node.client, ours)
        deleted += [(node.name, name) for name in ours]
        save(node.client)
    # Last, so that what could not be deleted is not forgotten.
    forget_records(nodes[0].client, keyspace, tuple(identities))
    if deleted:
        note_event(nodes[0].client, keyspace, "fence-remove", actor, identities)
    return deleted
