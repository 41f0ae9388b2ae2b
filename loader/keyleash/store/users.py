"""The ACL users of a server."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.store.live_table import reply_text
from keyleash.store.server_check import Client
from keyleash.store.store import Store
from keyleash.store.wire import reading_reply


def fenced_identities(store: Store) -> list[str]:
    """Return the identities for which an earlier version recorded an ACL user, a fence."""
    return sorted(reply_text(name) for name in store.client.hgetall(store.keys.fence))


def fences_advice(store: Store, names: Sequence[str]) -> str:
    """Return what takes the place of the users of *names*, and the command that deletes them."""
    return (
        "let agents that are not trusted connect to `keyleash gateway`, and delete the users on"
        f" each server: `redis-cli ACL DELUSER {' '.join(names)} && redis-cli DEL"
        f" {store.keys.fence}`"
    )


def is_default_user_open(client: Client) -> bool:
    """Return whether connections without a login may run every command on every key."""
    user = client.acl_getuser("default")
    with reading_reply("ACL"):
        # All keys and commands, even with some commands removed.
        may_everything = "+@all" in user["categories"] and "~*" in user["keys"]
        return may_everything and {"on", "nopass"} <= set(user["flags"])
