"""The ACL users of a server."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis.exceptions import ResponseError

from keyleash.errors import RulesRejectedError
from keyleash.store.live_table import reply_mapping, reply_text
from keyleash.store.server import round_trip
from keyleash.store.server_check import Client
from keyleash.store.wire import reading_reply

REJECTED_RULE = re.compile(r"Error in ACL SETUSER modifier '.*': (.*)", re.DOTALL)


def set_user(client: Client, name: str, words: Iterable[str]) -> None:
    """Create or change a user; all of *words* take effect, or none.

    Raises:
        RulesRejectedError: The server rejects a rule.
    """
    try:
        client.execute_command("ACL", "SETUSER", name, *words)
    except ResponseError as error:
        rejected = REJECTED_RULE.match(str(error))
        if rejected is None:
            raise
        # The rule is left out: it is long.
        raise RulesRejectedError(
            f"the server rejects a rule of the user `{name}`: {rejected[1]}",
            help="see `ACL SETUSER` of that server, and `keyleash fence plan --output acl`",
        ) from None


def delete_users(client: Client, names: Sequence[str]) -> None:
    """Delete users and close their connections; ignore unknown names."""
    if names:
        client.execute_command("ACL", "DELUSER", *names)


def read_user_fields(client: Client, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return the fields of ACL GETUSER of those of *names* that the server has, by name."""
    replies = round_trip(client, (("ACL", "GETUSER", name) for name in names))
    with reading_reply("ACL"):
        return {
            name: reply_mapping(reply)
            for name, reply in zip(names, replies, strict=True)
            if reply is not None
        }


def commands_of_category(client: Client, name: str) -> set[str]:
    """Return the commands of an ACL category of this server, in upper case."""
    words = client.execute_command("ACL", "CAT", name)
    return {reply_text(word).upper().replace("|", " ") for word in words}


def user_names(client: Client) -> set[str]:
    """Return the names of all users of the server."""
    return {reply_text(name) for name in client.acl_users()}


def may(client: Client, name: str, *call: str) -> bool:
    """Return whether a user may make a call, by ACL DRYRUN; nothing is run."""
    try:
        reply = client.execute_command("ACL", "DRYRUN", name, *call)
    except ResponseError as error:
        if "not found" in str(error):
            # The server lacks the command.
            return False
        raise
    return reply_text(reply) == "OK"


def save_users(client: Client) -> bool:
    """Write the users to the server's ACL file; return False if it has none."""
    try:
        client.execute_command("ACL", "SAVE")
    except ResponseError as error:
        if "not configured to use an ACL file" in str(error):
            return False
        raise
    return True


def is_default_user_open(client: Client) -> bool:
    """Return whether connections without a login may run every command on every key."""
    user = client.acl_getuser("default")
    with reading_reply("ACL"):
        # All keys and commands, even with some commands removed.
        may_everything = "+@all" in user["categories"] and "~*" in user["keys"]
        return may_everything and {"on", "nopass"} <= set(user["flags"])
