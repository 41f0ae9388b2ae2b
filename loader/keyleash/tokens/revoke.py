"""Revoking tokens; it binds the very next call."""

from __future__ import annotations

from dataclasses import dataclass

from keyleash.compiler.templates import emergency_script
from keyleash.errors import UnknownIdentityError, UnknownTokenIdError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client
from keyleash.protocol.reply import reading_reply
from keyleash.protocol.sealed import server_keyspace
from keyleash.protocol.token import reject_tokens
from keyleash.tokens.registry import require_token


@dataclass(frozen=True, slots=True)
class Revocation:
    """
    What a revocation did.

    Attributes:
        bound_us: When, server time, Unix µs: no call that starts later is let through.
        tokens: (identity, token id) of each token that was not revoked before; expired ones
            too, while their records last.
        unreadable: The identity of each token that could not be revoked, as what is recorded
            of it cannot be read.
    """

    bound_us: int
    tokens: tuple[tuple[str, str], ...]
    unreadable: tuple[str, ...] = ()


def revoke(
    client: Client,
    *,
    token_id: str | None = None,
    identity: str | None = None,
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> Revocation:
    """Revoke one token, all of an identity, or, with neither named, all there are.

    Raises:
        UnknownTokenIdError: no token has *token_id*.
        UnknownIdentityError: *identity* is empty.
    """
    client = operator_client(client)
    reject_tokens(actor=actor)
    # To the script an empty name means all: a variable that was never set must not.
    if token_id == "":
        raise UnknownTokenIdError("no token has the id ``", help="see `keyleash token list`")
    if identity == "":
        raise UnknownIdentityError("there is no identity ``", help="see `keyleash status`")
    keyspace = keyspace or server_keyspace(client)
    script = emergency_script("revoke.lua", keyspace)
    reply = client.eval(script, 0, actor, identity or "", token_id or "")
    with reading_reply("EVAL"):
        bound_us = int(reply[0])
        words = [item.decode() for item in reply[1:]]
        pairs = list(zip(words[::2], words[1::2], strict=True))
    if token_id is not None and not pairs:
        require_token(client, token_id, keyspace=keyspace)
    return Revocation(
        bound_us=bound_us,
        tokens=tuple((name, id_) for name, id_ in pairs if id_),
        unreadable=tuple(name for name, id_ in pairs if not id_),
    )


def revoke_tokens(
    client: Client,
    *,
    token_id: str | None = None,
    identity: str | None = None,
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> list[tuple[str, str]]:
    """The tokens that `revoke` revoked; arguments and errors are the same."""
    done = revoke(client, token_id=token_id, identity=identity, actor=actor, keyspace=keyspace)
    return list(done.tokens)
