"""Revoking tokens; it binds the very next call."""

from __future__ import annotations

from keyleash.compiler.templates import emergency_script
from keyleash.errors import UnknownTokenIdError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.sealed import server_keyspace
from keyleash.tokens.registry import list_tokens


def revoke_tokens(
    client: Client,
    *,
    token_id: str | None = None,
    identity: str | None = None,
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> list[tuple[str, str]]:
    """Revoke one token, all of an identity, or, with neither named, all there are.

    Returns:
        (identity, token id) of each token that was not revoked before; expired ones too,
        while their records last.

    Raises:
        UnknownTokenIdError: no token has *token_id*.
    """
    keyspace = keyspace or server_keyspace(client)
    script = emergency_script("revoke.lua", keyspace)
    flat = [item.decode() for item in client.eval(script, 0, actor, identity or "", token_id or "")]
    revoked = list(zip(flat[::2], flat[1::2], strict=True))
    if token_id is not None and not revoked:
        known = {info.id for info in list_tokens(client, identity, keyspace=keyspace)}
        if token_id not in known:
            raise UnknownTokenIdError(
                f"no token has the id `{token_id}`", help="see `keyleash token list`"
            )
    return revoked
