"""Whether anybody may go past the guards without a password."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from redis.exceptions import ResponseError

from keyleash.doctor.finding import Finding, Said, Severity, Skipped
from keyleash.doctor.patient import Server
from keyleash.protocol.reply import reading_reply

CODE = "open-default-user"


def check_default_user(server: Server, *, are_fenced: bool) -> Iterator[Said]:
    """
    Look at the user that a connection has before it logs in.

    Args:
        are_fenced: Whether agents have users of their own, which they could then do without.
    """
    try:
        said = server.client.acl_getuser("default")
    except ResponseError as error:
        yield Skipped("default user", f"the server's users cannot be read: {error}", server.name)
        return
    with reading_reply("ACL"):
        is_open = {"on", "nopass"} <= set(said["flags"]) and _may_everything(said)
    if not is_open:
        return
    yield Finding(
        CODE,
        Severity.ERROR if are_fenced else Severity.WARNING,
        "the user `default` needs no password and may do everything: whoever reaches the server"
        " goes past every guard",
        "make a user for operators, put it into KEYLEASH_URL, then `ACL SETUSER default off`; or"
        " set `requirepass`, which is the password of `default`",
        server.name,
    )


def _may_everything(said: Mapping[str, Any]) -> bool:
    """Also with some commands taken away: what is left is enough."""
    return "+@all" in said["categories"] and "~*" in said["keys"]
