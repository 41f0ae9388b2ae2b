"""Revoke tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from keyleash.errors import OperationError
from keyleash.operations import operation
from keyleash.operations.types import IdentityName, Labels, Param, RecordedReason, TokenId
from keyleash.operator.tokens.list import list_tokens, require_token, require_token_id
from keyleash.results import Change, Instant, Result
from keyleash.store.identities import require_known
from keyleash.store.scripts import REVOKE
from keyleash.store.shards import expire_leases
from keyleash.store.store import Store
from keyleash.store.wire import reading_reply
from keyleash.text import json_object

PIECE = 500
"""Records per script call: an agent may have written many."""


@dataclass(frozen=True, slots=True)
class RevokedToken(Result):
    """A newly revoked token.

    Attributes:
        calls_before: Its commands in the audit log of the minute before; None if they were not
            counted, or the user may not read the audit log.
        is_partial: Whether only the newest events of that minute were counted.
    """

    identity: str
    id: str
    calls_before: int | None = None
    is_partial: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the token as `--json` prints it."""
        return json_object(self, "id", "identity", "recorded_in_the_minute_before=calls_before")


@dataclass(frozen=True, slots=True)
class Revocation(Change):
    """The result of a revocation.

    Attributes:
        effective_us: Server time of the revocation, Unix µs: all later calls are denied.
        tokens: The newly revoked tokens, including expired ones that still have a record.
        unreadable: The identity of each token that could not be revoked, because its entry is
            corrupt.
        effective_at: `effective_us` as a `datetime`.
    """

    effective_us: int
    tokens: tuple[RevokedToken, ...]
    unreadable: tuple[str, ...] = ()
    effective_at = Instant[datetime]("effective_us")

    @property
    def identities(self) -> tuple[str, ...]:
        """Return the identities of the tokens, sorted."""
        return tuple(sorted({token.identity for token in self.tokens}))

    def to_dict(self) -> dict[str, Any]:
        """Return the revocation as `--json` prints it."""
        shown = json_object(self, "bound_at=effective_us", "revoked=tokens", "unreadable")
        return self.with_nodes(shown)


RevokedIdentity = Annotated[IdentityName, Param(help="Every token of this identity.")]
EveryToken = Annotated[bool, Param(help="Every token; asks for confirmation.")]
RevokedLabels = Annotated[
    Labels,
    Param(help="Every live token with this label. Repeatable, and with --identity both apply."),
]


@operation("token revoke")
def revoke(
    store: Store,
    token_id: TokenId | None = None,
    *,
    identity: RevokedIdentity | None = None,
    all: EveryToken = False,
    meta: RevokedLabels | None = None,
    reason: RecordedReason | None = None,
) -> Revocation:
    """Revoke a token, a group of tokens, or all tokens, from the next call on.

    Children of revoked tokens are over too. They are not in the result unless they belong to
    the group themselves.

    Args:
        token_id: The id of one token.
        identity: The identity of the tokens.
        all: Whether to revoke every token.
        meta: The labels of the tokens, which are listed and then revoked: one that is issued
            meanwhile stays valid.
        reason: The reason, for the control stream: up to 128 bytes, without a token.

    Raises:
        OperationError (unknown-token-id): there is no such token.
        OperationError (unknown-identity): there never was such an identity.
        OperationError (no-policy): no policy was ever loaded.
        UsageError: *token_id* is a token.
        TypeError: not exactly one is given of *token_id*, *all*, and *identity* or *meta* or
            both.
    """
    # Without a label it would select every token.
    has_group = identity is not None or bool(meta)
    if (token_id is not None) + has_group + all != 1:
        raise TypeError(
            "give exactly one of `token_id`, `all=True`, and `identity` or `meta` or both"
        )
    if token_id is None:
        require_known(store, identity)
    else:
        require_token_id(token_id)
    # The script reads an empty id as all: an unset variable must not revoke everything.
    if token_id == "":
        raise OperationError(
            "unknown-token-id", "no token has the id ``", help="see `keyleash token list`"
        )
    calls = [(store.actor, identity or "", token_id or "", reason or "")]
    if meta:
        found = [info for info in list_tokens(store, identity, meta=meta) if info.is_live]
        if not found:
            return Revocation(store.now_us(), ())
        calls = [(store.actor, info.identity, info.id, reason or "") for info in found]
    pairs: list[tuple[str, str]] = []
    for reply in store.run_all(REVOKE, calls):
        with reading_reply("EVALSHA"):
            effective_us = int(reply[0])
            words = [item.decode() for item in reply[1:]]
            pairs += zip(words[::2], words[1::2], strict=True)
    concerned = None if identity is None else [identity]
    if meta:
        concerned = list({name: None for _, name, *_ in calls})
    if token_id is not None:
        # Leases are expired also for a token that was revoked before, perhaps not at all nodes.
        concerned = [name for name, _ in pairs] or [require_token(store, token_id).identity]
    return Revocation(
        effective_us,
        tokens=tuple(RevokedToken(name, id_) for name, id_ in pairs if id_),
        unreadable=tuple(name for name, id_ in pairs if not id_),
        nodes=expire_leases(store, concerned),
    )
