"""Issue tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, TypedDict, Unpack

from keyleash.commands import OperationClass
from keyleash.errors import ArgumentError, OperationError
from keyleash.limits import Budget
from keyleash.limits.caps import CAP_COUNTERS
from keyleash.operations import operation
from keyleash.operations.types import Count, Duration, IdentityName, Labels, Param
from keyleash.operator.tokens.restrict import Scope, checked_labels, restrict
from keyleash.policy import Identity, Policy
from keyleash.policy.parse import active_policy
from keyleash.policy.problems import which_identity
from keyleash.policy.quantities import positive, seconds_of
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


def check_note(name: str, note: str) -> None:
    """Check a note that is stored and shown.

    Raises:
        SecretInTextError: It contains a token.
        ArgumentError: It is too long.
    """
    reject_tokens(**{name: note})
    if len(note) > MAX_NOTE:
        raise ArgumentError(f"`{name}` must have at most {MAX_NOTE} characters")


Note = Annotated[
    str, Param(help="Purpose, shown by `token list`; must not hold a secret.", check=check_note)
]
IssueTtl = Annotated[
    Duration, Param(help="Lifetime, such as `90m`.  [default: the policy's `ttl`]")
]
Bindings = Annotated[
    Mapping[str, str | int | bytes],
    Param(
        "binding",
        help="Grant only patterns with this capture, and only for this value. Repeatable.",
    ),
]
Classes = Annotated[
    Collection[str],
    Param("classes", help=f"Allow only these operation classes: {', '.join(OperationClass)}."),
]
Keys = Annotated[
    str | Collection[str],
    Param(
        "keys",
        help="Allow only this key, or all keys that begin so with `*` at the end; a brace is"
        " doubled: `a:{{42}}:*`. Repeatable.",
    ),
]
Caps = Annotated[
    Mapping[str, str | int],
    Param(
        "cap",
        help="Cap: `requests=200` for the token's life, `writes=50/hour`, or of bytes:"
        f" `bytes_written=10mb`. Counters: {', '.join(CAP_COUNTERS)}; periods:"
        f" {', '.join(Budget.PERIODS)}. Repeatable.",
    ),
]
NewLabels = Annotated[
    Labels,
    Param(help="Label, shown by `token list` and in the audit log; not a secret. Repeatable."),
]


class TokenOptions(TypedDict, total=False):
    """The life, restrictions and labels of a new token; `Operator.tokens.issue` documents them."""

    ttl: IssueTtl | None
    bind: Bindings | None
    allow: Classes | None
    keys: Keys | None
    budget: Caps | None
    meta: NewLabels | None


@operation("token issue")
def issue_token(
    store: Store, identity: IdentityName, *, note: Note = "", **options: Unpack[TokenOptions]
) -> IssuedToken:
    """Issue a token.

    *bind*, *allow*, *keys* and *budget* restrict it further than its identity. They need
    `token: {bound: true}` in the policy.

    Args:
        identity: A name in the active policy.
        ttl: The lifetime, as text (`2h`) or `timedelta`, capped by the policy's `max_ttl`; the
            policy's `ttl` if None.
        note: A note for `list`: up to 200 characters, without a token.
        bind: The values of captures, such as `{"job_id": "42"}`. Only patterns with all of
            these captures are granted, for these values.
        allow: The only operation classes that are allowed.
        keys: The only keys that are allowed: names, or prefixes with `*`.
        budget: The most calls or bytes by counter: `200` or `10mb` for the token's life, or
            `50/hour`, `/day`, … in UTC.
        meta: Up to 16 labels for `list`, the audit log and reports, without a token.

    Raises:
        OperationError (no-policy): no policy is active.
        OperationError (unknown-identity): the active policy has no such identity.
        OperationError (not-bound): the policy does not let tokens of the identity be bound.
        OperationError (bad-restriction): a restriction is malformed, or not within the grants
            of the identity.
        OperationError (bad-label): a label is malformed.
        SecretInTextError: *note*, *meta* or a restriction contains a token.
        TypeError, ValueError: an argument has a wrong type or value; nothing was issued.
    """
    return issue_tokens(store, identity, 1, note=note, **options)[0]


@operation()
def issue_tokens(
    store: Store,
    identity: IdentityName,
    count: Count,
    *,
    note: Note = "",
    **options: Unpack[TokenOptions],
) -> list[IssuedToken]:
    """Issue *count* tokens, a hundred in each step; see `issue`.

    If the connection is lost, tokens of earlier steps are issued and their secrets are lost,
    so that no client can use them.

    Raises:
        ValueError: *count* is not positive; nothing was issued.
    """
    positive("count", count)
    ttl_s = seconds_of("ttl", options.get("ttl"))
    check_note("note", note)
    labels = checked_labels(options.get("meta") or {})
    keys = options.get("keys")
    scope = Scope(
        options.get("bind") or {},
        options.get("allow"),
        [keys] if isinstance(keys, str) else keys,
        options.get("budget") or {},
    )
    # The active policy is read only for a token with restrictions.
    tail, recorded = b"", ""
    if not scope.is_empty:
        rules = active_identity(store, identity)
        restrictions = restrict(rules, scope, is_cluster=store.cluster is not None)
        if restrictions is not None:
            tail, recorded = restrictions.pack(), _recorded(rules, restrictions)
    made: dict[str, str] = {}
    while len(made) < count:
        made[new_token_id()] = new_token(identity)
    head = (store.actor, identity, "" if ttl_s is None else ttl_s, note, labels, tail, recorded)
    pieces = [*batches(made.items(), PIECE)]
    calls = [
        (*head, *(word for id_, token in piece for word in (id_, token_digest(token))))
        for piece in pieces
    ]
    issued = []
    for piece, reply in zip(pieces, store.run_all(ISSUE_TOKENS, calls), strict=True):
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


def active_identity(store: Store, name: str) -> Identity:
    """Return an identity of the active policy.

    Raises:
        OperationError (no-policy): No policy is active.
        OperationError (unknown-identity): The active policy has no such identity.
    """
    return require_identity(active_policy(require_active(store).document), name)


def require_identity(policy: Policy, name: str, where: str = "the active policy") -> Identity:
    """Return an identity of a policy, which an error calls *where*; see `active_identity`."""
    identity = policy.identity(name)
    if identity is None:
        help = which_identity(name, [item.name for item in policy.identities])
        raise OperationError("unknown-identity", f"{where} has no identity `{name}`", help=help)
    return identity


def not_active(store: Store, identity: str) -> OperationError:
    """Return the error for an identity whose guard record has no token rules."""
    active_identity(store, identity)
    return OperationError(
        "no-policy",
        f"the guard record of `{identity}` is missing or damaged",
        help="load the active policy again",
    )
