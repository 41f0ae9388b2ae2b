"""Rotate tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from keyleash.errors import OperationError
from keyleash.operations import operation
from keyleash.operations.types import Duration, IdentityName, Param
from keyleash.operator.tokens.issue import IssuedToken, Note, check_note, not_active
from keyleash.operator.tokens.list import parsed, require_token, require_token_id
from keyleash.policy.quantities import seconds_of
from keyleash.results import Change, Instant, Result
from keyleash.store.identities import active_records
from keyleash.store.scripts import ROTATE_TOKEN
from keyleash.store.shards import expire_leases
from keyleash.store.store import Store
from keyleash.store.token import new_token, new_token_id, token_digest
from keyleash.store.token_entries import read_token_entries
from keyleash.store.wire import reading_reply
from keyleash.text import json_object


@dataclass(frozen=True, slots=True)
class ReplacedToken(Result):
    """A token that another replaced, and when it expires: server time, Unix milliseconds."""

    id: str
    expires_ms: int
    expires_at = Instant[datetime]()


@dataclass(frozen=True, slots=True)
class Rotation(Change):
    """The result of a rotation.

    Attributes:
        issued: The new token.
        replaced: The tokens that it replaces.
        bound: The number of bound tokens of the identity, which stay valid.
    """

    issued: IssuedToken
    replaced: tuple[ReplacedToken, ...]
    bound: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the new token, with its secret, and the replaced ones as `--json` prints them."""
        return self.with_nodes({**self.issued.to_dict(), **json_object(self, "replaced", "bound")})


Grace = Annotated[
    Duration,
    Param(
        "grace",
        help="Time for which replaced tokens stay valid; `0` for none.",
        check=partial(seconds_of, least=0),
    ),
]
RotateTtl = Annotated[
    Duration, Param(help="Lifetime, such as `90m`.  [default: the longest life of those replaced]")
]
NextNote = Annotated[Note, Param(help="As for `token issue`.  [default: that of the token ID]")]


@operation("token rotate")
def rotate_token(
    store: Store,
    which: str | None = None,
    *,
    identity: IdentityName | None = None,
    grace: Grace = "10m",
    ttl: RotateTtl | None = None,
    note: NextNote | None = None,
) -> Rotation:
    """Replace one token, or all live tokens of an identity, by a new one.

    Args:
        which: A token id, or the name of an identity of the active policy.
        identity: The name of an identity, in place of *which*.
        grace: How long the replaced tokens remain valid, at most, as text or `timedelta`;
            `timedelta(0)` for not at all.
        ttl: As for `issue`; if None, the longest life that a replaced token was issued with.
        note: As for `issue`; that of the replaced token if None.

    Raises:
        OperationError (unknown-token-id): there is no such token.
        OperationError (token-delegated): another token made it; nothing was issued.
        OperationError (token-not-live): the token is expired or revoked, or all live tokens of
            the identity are bound; nothing was issued.
        UsageError: *which* is a token.
        TypeError: both or neither of *which* and *identity* are given.
    """
    grace_s = seconds_of("grace", grace, least=0) or 0
    ttl_s = seconds_of("ttl", ttl)
    if (which is None) == (identity is None):
        raise TypeError("give either a token id or an identity")
    token_id = None
    if which is not None:
        require_token_id(which)
        # No token id has a hyphen.
        is_identity = "-" in which or bool(active_records(store, [which]))
        identity, token_id = (which, None) if is_identity else (None, which)
    if token_id is not None:
        old = require_token(store, token_id)
        if old.chain:
            raise OperationError(
                "token-delegated",
                f"the token `{token_id}` was made by the token `{old.by}`; nothing was issued",
                help="revoke it, and let its parent make another one",
            )
        identity, note = old.identity, old.note if note is None else note
    assert identity is not None  # noqa: S101 - one of them was given
    check_note("note", note or "")
    # The script does not validate the entries.
    parsed(identity, *read_token_entries(store, [identity]))
    token, new_id = new_token(identity), new_token_id()
    life = "" if ttl_s is None else ttl_s
    words = (identity, life, note or "", token_id or "", grace_s * 1000, new_id)
    reply = store.run(ROTATE_TOKEN, store.actor, *words, token_digest(token))
    if reply == 0:
        raise not_active(store, identity)
    if isinstance(reply, int):
        why, help = f"the token `{token_id}` is expired or revoked", "issue one with"
        if reply == 2:
            why = f"all live tokens of `{identity}` are bound"
            help = "rotate a bound token by its id; or issue one that is not bound with"
        help += f" `keyleash token issue {identity}`"
        raise OperationError("token-not-live", f"{why}; nothing was issued", help=help)
    with reading_reply("EVAL"):
        issued = IssuedToken(token, new_id, identity, int(reply[0]), bool(reply[1]))
        pairs = zip(reply[3::2], reply[4::2], strict=True)
        bound = int(reply[2])
        replaced = tuple(ReplacedToken(id_.decode(), int(ends)) for id_, ends in pairs)
    return Rotation(issued, replaced, bound, nodes=expire_leases(store, [identity]))
