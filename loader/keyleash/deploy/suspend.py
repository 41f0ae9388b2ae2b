"""Suspending an identity, and letting it act again."""

from __future__ import annotations

from keyleash.compiler.templates import emergency_script
from keyleash.errors import UnknownIdentityError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.sealed import server_keyspace


def set_suspended(
    client: Client,
    identity: str,
    suspended: bool,
    *,
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> bool:
    """Suspend or resume *identity*, from its very next call on.

    Returns:
        Whether that changed anything.

    Raises:
        UnknownIdentityError: no such identity is active.
    """
    script = emergency_script("suspend.lua", keyspace or server_keyspace(client))
    changed = client.eval(script, 0, identity, "1" if suspended else "0", actor)
    if changed is None:
        raise UnknownIdentityError(
            f"no identity `{identity}` is active", help="see `keyleash status` for those that are"
        )
    return bool(changed)
