"""Issuing tokens: the secret is returned once, Redis stores its hash."""

from __future__ import annotations

from dataclasses import dataclass, field

from keyleash.compiler.templates import operator_script
from keyleash.errors import VaultChangingError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client
from keyleash.protocol.reply import reading_reply
from keyleash.protocol.sealed import server_keyspace
from keyleash.protocol.token import new_token, new_token_id, reject_tokens, token_digest
from keyleash.tokens.rules import not_active

MAX_NOTE = 200
MAX_TOKENS = 1000
"""Tokens per `issue_tokens`: the server does nothing else meanwhile."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token. `token` is the secret and is nowhere else.

    Attributes:
        expires_ms: Server time, Unix milliseconds.
        capped: Whether the wanted life was longer than the policy's `max_ttl`.
    """

    token: str = field(repr=False)
    id: str
    identity: str
    expires_ms: int
    capped: bool


def issue_token(
    client: Client,
    identity: str,
    *,
    ttl_s: int | None = None,
    note: str = "",
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> IssuedToken:
    """Issue a token for an identity of the active policy.

    Args:
        client: A redis-py client of an operator.
        identity: Its name.
        ttl_s: Wanted life in seconds; the policy's `ttl` if None, its `max_ttl` at most.
        note: For `list_tokens`, up to 200 characters; without a token.
        actor: Who issues it, for the control stream.
        keyspace: Where keys are; what the server's record says if None.

    Raises:
        NoPolicyError: no policy is active.
        UnknownIdentityError: the active policy has no such identity.
        VaultChangingError: the prefixes were changed meanwhile; nothing was issued.
        SecretInTextError: *note* or *actor* contains a token; nothing was issued.
        ValueError: *ttl_s* is not positive, or *note* is too long.
        TypeError: an argument is of another type; a bool is no number.
    """
    return issue_tokens(
        client, identity, 1, ttl_s=ttl_s, note=note, actor=actor, keyspace=keyspace
    )[0]


def issue_tokens(
    client: Client,
    identity: str,
    n: int,
    *,
    ttl_s: int | None = None,
    note: str = "",
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> list[IssuedToken]:
    """Issue *n* tokens in one atomic step: all of them, or none.

    If the connection is lost before the reply, it is not known whether they were issued; their
    secrets are lost, so none of them can be used.

    Args:
        client, identity, ttl_s, actor, keyspace: As for `issue_token`.
        n: How many, 1 to 1,000. More are several calls, each of which is atomic.
        note: Of each of them.

    Raises:
        ValueError: *n* is out of range; nothing was issued. Otherwise as `issue_token`.
    """
    client = operator_client(client)
    require_int("n", n)
    if not 1 <= n <= MAX_TOKENS:
        raise ValueError(f"`n` is {n}, and 1 to {MAX_TOKENS} tokens are issued at once")
    check_request(identity, ttl_s, note, actor)
    keyspace = keyspace or server_keyspace(client)
    made: dict[str, str] = {}
    while len(made) < n:
        made[new_token_id()] = new_token(identity)
    words = [word for id_, token in made.items() for word in (id_, token_digest(token))]
    script = operator_script("issue_tokens.lua", keyspace)
    said: list[bytes | int] | int | None = client.eval(
        script, 0, actor, identity, "" if ttl_s is None else ttl_s, note, *words
    )
    if said is None:
        raise prefixes_changed()
    if isinstance(said, int):
        raise not_active(client, keyspace, identity)
    with reading_reply("EVAL"):
        expires_ms, capped = int(said[0]), bool(said[1])
    return [IssuedToken(token, id_, identity, expires_ms, capped) for id_, token in made.items()]


def check_request(identity: str, ttl_s: int | None, note: str, actor: str) -> None:
    """Reject what no token can have; arguments and errors are those of `issue_token`."""
    for name, value in (("identity", identity), ("note", note), ("actor", actor)):
        if not isinstance(value, str):
            raise TypeError(f"`{name}` must be a str, not {type(value).__name__}")
    if ttl_s is not None:
        require_int("ttl_s", ttl_s)
    reject_tokens(note=note, actor=actor)
    if ttl_s is not None and ttl_s <= 0:
        raise ValueError("a token must live for at least a second")
    if len(note) > MAX_NOTE:
        raise ValueError(f"a note has at most {MAX_NOTE} characters")


def require_int(name: str, value: object) -> None:
    """
    Check that the argument *name* is a whole number.

    Raises:
        TypeError: It is of another type, or a bool.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an int, not {type(value).__name__}")


def prefixes_changed() -> VaultChangingError:
    """Return the error for a script that met other prefixes than it was made for."""
    return VaultChangingError(
        "the prefixes are being changed, or are others since this began; nothing was issued",
        help="run it again when that is finished",
    )
