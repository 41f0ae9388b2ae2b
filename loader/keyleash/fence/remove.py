"""Taking users away; their connections end with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keyleash.fence.acl import delete_users, read_users, save
from keyleash.fence.apply import note_event, require_none_foreign
from keyleash.fence.plan import Node, why_foreign
from keyleash.fence.record import Record, forget_records
from keyleash.protocol.active import database_of
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.token import reject_tokens


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

    A user of such a name that was not made for this policy stays, and so does the record of ours.

    Args:
        nodes: The servers; the first has the control keys.
        keyspace: Where these are.
        records: What is known of the users.
        identities: Whose.
        actor: Who does it, for the control stream.

    Returns:
        (server, identity) of each user that was deleted.

    Raises:
        ForeignUserError: There is such a user, by which somebody may still act; all others were
            deleted.
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
    # Last, so that what could not be deleted is not forgotten.
    left = {name for _, name in foreign}
    forget_records(nodes[0].client, keyspace, tuple(one for one in identities if one not in left))
    if deleted:
        note_event(nodes[0].client, keyspace, "fence-remove", actor, identities)
    require_none_foreign(foreign)
    return deleted
