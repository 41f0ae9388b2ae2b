"""Issue tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

from keyleash.errors import OperationError
from keyleash.operator.tokens.restrict import Scope, checked_labels, restrict
from keyleash.policy import Identity, parse_policy
from keyleash.policy.problems import which_identity
from keyleash.results import Instant, Result
from keyleash.store.identities import require_active
from keyleash.store.restrictions import Restrictions
from keyleash.store.scripts import ISSUE_TOKENS
from keyleash.store.store import Store, batches
from keyleash.store.token import new_token, new_token_id, reject_tokens, token_digest
from keyleash.store.wire import reading_reply
from keyleash.text import json_object

MAX_NOTE = 200
PIECE = 100
"""Tokens per script call: the server does nothing else meanwhile, for about 20 µs each."""


@dataclass(frozen=True, slots=True)
class IssuedToken(Result):
    """A new token; `token` is the secret, and is stored nowhere else.

    Attributes:
        expires_ms: When it expires, server time, Unix milliseconds.
        capped: Whether the requested life was longer than the policy's `max_ttl`.
        expires_at: `expires_ms` as a `datetime`.
    """

    token: str = field(repr=False)
    id: str
    identity: str
    expires_ms: int
    capped: bool
    expires_at = Instant[datetime]()

    def to_dict(self) -> dict[str, Any]:
        """Return the token, with its secret, as `--json` prints it."""
        return json_object(self, "token", "id", "identity", "expires_ms")


NO_SCOPE = Scope()


def issue_token(
    store: Store,
    identity: str,
    *,
    ttl_s: int | None = None,
    note: str = "",
    scope: Scope = NO_SCOPE,
    meta: Mapping[str, str] | None = None,
) -> IssuedToken:
    """Issue a token for an identity of the active policy.

    Arguments and errors are those of `Operator.tokens.issue`.
    """
    return issue_tokens(store, identity, 1, ttl_s=ttl_s, note=note, scope=scope, meta=meta)[0]


def issue_tokens(
    store: Store,
    identity: str,
    count: int,
    *,
    ttl_s: int | None = None,
    note: str = "",
    scope: Scope = NO_SCOPE,
    meta: Mapping[str, str] | None = None,
) -> list[IssuedToken]:
    """Issue *count* tokens, a hundred in each script call; each hundred atomically.

    If the connection is lost or the identity is removed meanwhile, some tokens may have been
    issued; their secrets are lost, so that no client can use them.

    Args:
        count: The number of tokens. Other arguments are those of `issue_token`.

    Raises:
        ValueError: *count* is not positive; nothing was issued.
        Otherwise as `issue_token`.
    """
    require_int("count", count)
    if count < 1:
        raise ValueError(f"`count` must be at least 1, not {count}")
    check_request(identity, ttl_s, note)
    labels = checked_labels(meta or {})
    # The active policy is read only for a token with restrictions.
    tail, recorded = b"", ""
    if not scope.is_empty:
        rules = active_identity(store, identity)
        restrictions = restrict(rules, scope, is_cluster=store.nodes is not None)
        if restrictions is not None:
            tail, recorded = restrictions.pack(), _recorded(rules, restrictions)
    made: dict[str, str] = {}
    while len(made) < count:
        made[new_token_id()] = new_token(identity)
    calls = [
        (
            store.actor,
            identity,
            "" if ttl_s is None else ttl_s,
            note,
            labels,
            tail,
            recorded,
            *chain.from_iterable(piece),
        )
        for piece in batches(((id_, token_digest(token)) for id_, token in made.items()), PIECE)
    ]
    issued = []
    for piece, reply in zip(
        batches(made.items(), PIECE), store.run_all(ISSUE_TOKENS, calls), strict=True
    ):
        if isinstance(reply, int):
            raise not_active(store, identity)
        with reading_reply("EVALSHA"):
            expires_ms, capped = int(reply[0]), bool(reply[1])
        issued += [IssuedToken(token, id_, identity, expires_ms, capped) for id_, token in piece]
    return issued


def _recorded(identity: Identity, restrictions: Restrictions) -> str:
    """Return restrictions as the control stream has them: JSON, with the digests of masked keys."""
    given = restrictions.to_dict()
    if identity.audit.mask_keys and given["keys"] is not None:
        digests = (hashlib.sha1(key.encode(), usedforsecurity=False) for key in given["keys"])
        given["keys"] = [f"#{digest.hexdigest()}" for digest in digests]
    given["budget"] = [cap.short for cap in restrictions.caps]
    names = ("bind", "allow", "keys", "budget")
    return json.dumps({name: given[name] for name in names if given[name]}, separators=(",", ":"))


def check_request(identity: str, ttl_s: int | None, note: str) -> None:
    for name, value in (("identity", identity), ("note", note)):
        if not isinstance(value, str):
            raise TypeError(f"`{name}` must be a str, not {type(value).__name__}")
    if ttl_s is not None:
        require_int("ttl", ttl_s)
    reject_tokens(note=note)
    if ttl_s is not None and ttl_s <= 0:
        raise ValueError("`ttl` must be at least a second")
    if len(note) > MAX_NOTE:
        raise ValueError(f"`note` must have at most {MAX_NOTE} characters")


def require_int(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an int, not {type(value).__name__}")


def active_identity(store: Store, name: str) -> Identity:
    """
    Return an identity of the active policy.

    Raises:
        OperationError (no-policy): No policy is active.
        OperationError (unknown-identity): The active policy has no such identity.
    """
    active = require_active(store)
    policy = parse_policy(active.document, file="<active policy>", commands=None)
    identity = policy.identity(name)
    if identity is None:
        raise OperationError(
            "unknown-identity",
            f"the active policy has no identity `{name}`",
            help=which_identity(name, [item.name for item in policy.identities]),
        )
    return identity


def not_active(store: Store, identity: str) -> OperationError:
    """Return the error for an identity whose guard record has no token rules."""
    active_identity(store, identity)
    return OperationError(
        "no-policy",
        f"the guard record of `{identity}` is missing or damaged",
        help="load the active policy again",
    )
