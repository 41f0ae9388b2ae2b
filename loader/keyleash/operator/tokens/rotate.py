"""Rotate tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keyleash.errors import OperationError
from keyleash.operator.tokens.issue import IssuedToken, check_request, not_active, require_int
from keyleash.operator.tokens.list import parsed, require_token, require_token_id
from keyleash.results import Change, Instant, Result
from keyleash.store.identities import active_records
from keyleash.store.scripts import ROTATE_TOKEN
from keyleash.store.shards import expire_leases
from keyleash.store.store import Store
from keyleash.store.token import new_token, new_token_id, token_digest
from keyleash.store.token_entries import read_token_entries
from keyleash.store.wire import reading_reply
from keyleash.text import json_object

GRACE_S = 600


@dataclass(frozen=True, slots=True)
class ReplacedToken(Result):
    """A token that another replaced, and when it expires: server time, Unix milliseconds."""

    id: str
    expires_ms: int
    expires_at = Instant[datetime]()


@dataclass(frozen=True, slots=True)
class Rotation(Change):
    """
    The result of a rotation.

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


def rotate_token(
    store: Store,
    which: str | None = None,
    *,
    identity: str | None = None,
    grace_s: int = GRACE_S,
    ttl_s: int | None = None,
    note: str | None = None,
) -> Rotation:
    """
    Replace one token, or all live tokens of an identity, by a new one.

    Arguments and errors are those of `Operator.tokens.rotate`, and of `issue_token`.
    """
    require_int("grace", grace_s)
    if grace_s < 0:
        raise ValueError("`grace` must not be negative")
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
    check_request(identity, ttl_s, note or "")
    # The script does not validate the entries.
    parsed(identity, *read_token_entries(store, [identity]))
    token, new_id = new_token(identity), new_token_id()
    reply = store.run(
        ROTATE_TOKEN,
        store.actor,
        identity,
        "" if ttl_s is None else ttl_s,
        note or "",
        token_id or "",
        grace_s * 1000,
        new_id,
        token_digest(token),
    )
    if reply == 0:
        raise not_active(store, identity)
    if reply == 2:
        raise OperationError(
            "token-not-live",
            f"all live tokens of `{identity}` are bound; nothing was issued",
            help="rotate a bound token by its id; or issue one that is not bound with `keyleash"
            f" token issue {identity}`",
        )
    if isinstance(reply, int):
        raise OperationError(
            "token-not-live",
            f"the token `{token_id}` is expired or revoked; nothing was issued",
            help=f"issue one with `keyleash token issue {identity}`",
        )
    with reading_reply("EVAL"):
        issued = IssuedToken(token, new_id, identity, int(reply[0]), bool(reply[1]))
        pairs = zip(reply[3::2], reply[4::2], strict=True)
        bound = int(reply[2])
        replaced = tuple(ReplacedToken(id_.decode(), int(ends)) for id_, ends in pairs)
    return Rotation(issued, replaced, bound, nodes=expire_leases(store, [identity]))
