"""Rotating a token: a new one now, and the old one for as long as the grace lasts."""

from __future__ import annotations

from dataclasses import dataclass

from keyleash.compiler.templates import operator_script
from keyleash.errors import TokenNotLiveError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client
from keyleash.protocol.reply import reading_reply
from keyleash.protocol.sealed import server_keyspace
from keyleash.protocol.token import new_token, new_token_id, token_digest
from keyleash.tokens.issue import IssuedToken, check_request, prefixes_changed, require_int
from keyleash.tokens.registry import read_known, require_token
from keyleash.tokens.rules import not_active

GRACE_S = 600


@dataclass(frozen=True, slots=True)
class Rotation:
    """
    What a rotation did.

    Attributes:
        issued: The new token.
        replaced: Id of each token that ends, and when: server time, Unix milliseconds.
    """

    issued: IssuedToken
    replaced: tuple[tuple[str, int], ...]


def rotate_token(
    client: Client,
    *,
    identity: str | None = None,
    token_id: str | None = None,
    grace_s: int = GRACE_S,
    ttl_s: int | None = None,
    note: str | None = None,
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> Rotation:
    """
    Issue a token in the place of one, or of all live ones of an identity.

    Args:
        client: A redis-py client of an operator.
        identity: Whose live tokens are replaced; it may have none. Either this or *token_id*.
        token_id: The one token that is replaced.
        grace_s: For how many seconds they are still good, 0 for none; none of them outlives
            its own expiry.
        ttl_s: As for `issue_token`.
        note: As for `issue_token`; if None, that of the one token.
        actor: Who does it, for the control stream.
        keyspace: Where keys are; what the server's record says if None.

    Raises:
        NoPolicyError: no policy is active.
        UnknownIdentityError: the active policy has no such identity.
        UnknownTokenIdError: no token has *token_id*.
        UnreadableRecordError: somebody else wrote where the tokens are recorded.
        TokenNotLiveError: it is expired or revoked; nothing was issued.
        VaultChangingError: the prefixes were changed meanwhile; nothing was issued.
        SecretInTextError: *note* or *actor* contains a token; nothing was issued.
        ValueError: *ttl_s* is not positive, *grace_s* is negative, or *note* is too long.
        TypeError: as for `issue_token`.
    """
    client = operator_client(client)
    require_int("grace_s", grace_s)
    if grace_s < 0:
        raise ValueError("a grace cannot be negative")
    keyspace = keyspace or server_keyspace(client)
    if token_id is not None:
        old = require_token(client, token_id, keyspace=keyspace)
        identity, note = old.identity, old.note if note is None else note
    if identity is None:
        raise ValueError("neither an identity nor a token is named")
    check_request(identity, ttl_s, note or "", actor)
    # The script reads them as they are.
    read_known(identity, client.hgetall(keyspace.tokens(identity)))
    token, new_id = new_token(identity), new_token_id()
    said: list[bytes] | int | None = client.eval(
        operator_script("rotate_token.lua", keyspace),
        0,
        actor,
        identity,
        "" if ttl_s is None else ttl_s,
        note or "",
        token_id or "",
        grace_s * 1000,
        new_id,
        token_digest(token),
    )
    if said is None:
        raise prefixes_changed()
    if said == 0:
        raise not_active(client, keyspace, identity)
    if isinstance(said, int):
        raise TokenNotLiveError(
            f"the token `{token_id}` is expired or revoked; nothing was issued",
            help=f"issue one with `keyleash token issue {identity}`",
        )
    with reading_reply("EVAL"):
        issued = IssuedToken(token, new_id, identity, int(said[0]), bool(said[1]))
        pairs = zip(said[2::2], said[3::2], strict=True)
        return Rotation(issued, tuple((id_.decode(), int(ends)) for id_, ends in pairs))
