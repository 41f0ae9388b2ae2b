"""Issue, list, rotate and revoke tokens.

Each token has a *record*, which guards read (`TokenRecord`, at the digest of the token), and an
*entry* for operators: a JSON object in the hash `Keyspace.tokens`, by token id. The record expires
a week after the token; the entry remains until the tokens are listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import chain
from typing import Any

from redis import exceptions as redis_errors

from keyleash.errors import OperationError, UsageError
from keyleash.policy import Identity, TokenRules, parse_policy
from keyleash.policy.problems import which_identity
from keyleash.results import Change, Instant, Result
from keyleash.store.identities import (
    active_records,
    known_identities,
    require_active,
    require_known,
)
from keyleash.store.scripts import ISSUE_TOKENS, REVOKE, ROTATE_TOKEN
from keyleash.store.shards import expire_leases
from keyleash.store.store import Store, batches
from keyleash.store.token import (
    TOKEN_START,
    TokenRecord,
    new_token,
    new_token_id,
    reject_tokens,
    token_digest,
    use_noted_us,
)
from keyleash.store.token_entries import (
    delete_token_entries,
    read_token_entries,
    read_token_records,
)
from keyleash.store.wire import reading_reply
from keyleash.text import json_object, without_tokens

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


def issue_token(
    store: Store, identity: str, *, ttl_s: int | None = None, note: str = ""
) -> IssuedToken:
    """Issue a token for an identity of the active policy.

    Args:
        identity: Its name.
        ttl_s: The life in seconds, capped by the policy's `max_ttl`; the policy's `ttl` if None.
        note: A note for `list_tokens`: up to 200 characters, without a token.

    Raises:
        OperationError (no-policy): No policy is active.
        OperationError (unknown-identity): The active policy has no such identity.
        OperationError (vault-changing): The key prefixes were changed meanwhile; nothing was
            issued.
        SecretInTextError: *note* or *actor* contains a token; nothing was issued.
        ValueError: The lifetime is not positive, or *note* is too long.
        TypeError: An argument has a wrong type; a bool is not a number.
    """
    return issue_tokens(store, identity, 1, ttl_s=ttl_s, note=note)[0]


def issue_tokens(
    store: Store, identity: str, count: int, *, ttl_s: int | None = None, note: str = ""
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
    _require_int("count", count)
    if count < 1:
        raise ValueError(f"`count` must be at least 1, not {count}")
    _check_request(identity, ttl_s, note)
    made: dict[str, str] = {}
    while len(made) < count:
        made[new_token_id()] = new_token(identity)
    calls = [
        (store.actor, identity, "" if ttl_s is None else ttl_s, note, *chain.from_iterable(piece))
        for piece in batches(((id_, token_digest(token)) for id_, token in made.items()), PIECE)
    ]
    issued = []
    for piece, reply in zip(
        batches(made.items(), PIECE), store.run_all(ISSUE_TOKENS, calls), strict=True
    ):
        if isinstance(reply, int):
            raise _not_active(store, identity)
        with reading_reply("EVALSHA"):
            expires_ms, capped = int(reply[0]), bool(reply[1])
        issued += [IssuedToken(token, id_, identity, expires_ms, capped) for id_, token in piece]
    return issued


def _check_request(identity: str, ttl_s: int | None, note: str) -> None:
    for name, value in (("identity", identity), ("note", note)):
        if not isinstance(value, str):
            raise TypeError(f"`{name}` must be a str, not {type(value).__name__}")
    if ttl_s is not None:
        _require_int("ttl", ttl_s)
    reject_tokens(note=note)
    if ttl_s is not None and ttl_s <= 0:
        raise ValueError("`ttl` must be at least a second")
    if len(note) > MAX_NOTE:
        raise ValueError(f"`note` must have at most {MAX_NOTE} characters")


def _require_int(name: str, value: object) -> None:
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


def _not_active(store: Store, identity: str) -> OperationError:
    """Return the error for an identity whose guard record has no token rules."""
    active_identity(store, identity)
    return OperationError(
        "no-policy",
        f"the guard record of `{identity}` is missing or damaged",
        help="load the active policy again",
    )


class TokenState(StrEnum):
    """The states of a token."""

    LIVE = "live"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class TokenInfo(Result):
    """A token, without its secret; times are server time, Unix milliseconds.

    Attributes:
        state: Also expired if it was idle for longer than the active policy allows.
        expires_ms: When it expires, also if it was rotated.
        used_ms: When it was last used: exact to a minute, or to a second if the policy has an idle
            time; None if never.
        due_ms: When it is due for rotation; None if never, or if it was rotated.
        replaced_by: The id of the token that replaced it; empty if none.
        read_ms: The server's clock when it was read.
        issued_at, expires_at, used_at, due_at: The times as `datetime`.
    """

    id: str
    identity: str
    state: TokenState
    issued_ms: int
    expires_ms: int
    by: str
    note: str
    used_ms: int | None = None
    due_ms: int | None = None
    replaced_by: str = ""
    read_ms: int = field(default=0, compare=False)
    issued_at = Instant[datetime]()
    expires_at = Instant[datetime]()
    used_at = Instant["datetime | None"]()
    due_at = Instant["datetime | None"]()

    @property
    def is_stale(self) -> bool:
        """Return whether it was overdue for rotation when it was read."""
        return self.is_due(self.read_ms)

    def is_due(self, now_ms: int) -> bool:
        """Return whether it is overdue for rotation."""
        return self.state is TokenState.LIVE and self.due_ms is not None and self.due_ms <= now_ms

    def to_dict(self) -> dict[str, Any]:
        """Return the token as `--json` prints it."""
        return {
            **json_object(self, "id", "identity", "state", "issued_ms", "expires_ms"),
            **json_object(self, "last_used_at=used_ms", "rotate_at=due_ms", "is_stale"),
            "replaced_by": self.replaced_by or None,
            "by": self.by,
            "note": without_tokens(self.note),
        }


def list_tokens(store: Store, identity: str | None = None) -> list[TokenInfo]:
    """Return the tokens of one identity, or of all, newest first.

    Deletes the entries of tokens that expired more than a week ago, if the user may write.

    Raises:
        OperationError (no-policy): No policy was ever loaded.
        OperationError (unknown-identity): There never was such an identity.
        OperationError (unreadable): An entry is corrupt.
    """
    return _tokens_of(store, require_known(store, identity))


def _tokens_of(store: Store, names: Sequence[str]) -> list[TokenInfo]:
    records = active_records(store, names)
    rules = {
        name: None
        if (record := records.get(name)) is None
        else TokenRules(
            ttl_s=record.ttl_s,
            max_ttl_s=record.max_ttl_s,
            rotate_after_s=record.rotate_after_s or None,
            idle_s=record.idle_s or None,
        )
        for name in names
    }
    found: list[TokenInfo] = []
    for name, infos, expired in read_tokens(store, rules, store.now_us()):
        found += infos
        if expired:
            # Read-only users and replicas cannot clean up.
            with suppress(redis_errors.ResponseError):
                delete_token_entries(store, name, expired)
    return sorted(found, key=lambda info: info.issued_ms, reverse=True)


def read_tokens(
    store: Store, rules: Mapping[str, TokenRules | None], now_us: int
) -> Iterator[tuple[str, list[TokenInfo], list[str]]]:
    """
    Yield identities with their tokens, and the ids of entries whose records have expired.

    Args:
        rules: The token rules of each identity to read; None if it is not in the active policy.
        now_us: Server time.

    Raises:
        OperationError (unreadable): An entry is corrupt.
    """
    for names in batches(rules):
        entries = {
            name: _parsed(name, raw)
            for name, raw in zip(names, read_token_entries(store, names), strict=True)
            if raw
        }
        digests = {
            name: [item["digest"] for item in known.values()] for name, known in entries.items()
        }
        replies = read_token_records(store, digests)
        for (name, known), records in zip(entries.items(), replies, strict=True):
            with reading_reply("MGET"):
                tokens = list(zip(known.items(), records, strict=True))
            yield (
                name,
                [
                    _token_info(id_, name, entry, TokenRecord.unpack(packed), rules[name], now_us)
                    for (id_, entry), packed in tokens
                    if packed is not None
                ],
                [id_ for (id_, _), packed in tokens if packed is None],
            )


def require_token(store: Store, token_id: str) -> TokenInfo:
    """Return the token with an id.

    Raises:
        UsageError: *token_id* is a token.
        OperationError (unknown-token-id): No token has it.
    """
    require_token_id(token_id)
    for info in _tokens_of(store, known_identities(store)):
        if info.id == token_id:
            return info
    raise OperationError(
        "unknown-token-id",
        f"no token has the id `{token_id}`",
        help="see `keyleash token list` or `op.tokens.list()`",
    )


def require_token_id(token_id: str) -> None:
    """Raise UsageError if an id is a token; the error does not contain it."""
    if token_id.startswith(TOKEN_START):
        raise UsageError(
            "this is a token, not a token id",
            help="see `keyleash token list` or `op.tokens.list()`",
        )


def _parsed(identity: str, recorded: Mapping[bytes, bytes]) -> dict[str, Mapping[str, Any]]:
    """Parse the entries of `Keyspace.tokens`, by token id."""
    known = {}
    for token_id, text in recorded.items():
        try:
            facts = json.loads(text)
            str.encode(facts["digest"])
            int(facts["issued_ms"])
        except (ValueError, LookupError, TypeError):
            raise OperationError(
                "unreadable",
                f"the entry of a token of `{identity}` is corrupt",
                help="find out what wrote to the control keys; `keyleash doctor` checks them",
            ) from None
        known[token_id.decode("utf-8", "backslashreplace")] = facts
    return known


def _token_info(
    token_id: str,
    identity: str,
    known: Mapping[str, Any],
    record: TokenRecord,
    rules: TokenRules | None,
    now_us: int,
) -> TokenInfo:
    issued_ms, used_ms = int(known["issued_ms"]), record.used_us // 1000
    replaced_by = known.get("replaced_by", "")
    rotate_after_s = rules.rotate_after_s if rules and not replaced_by else None
    return TokenInfo(
        id=token_id,
        identity=identity,
        state=_state(record, rules.idle_s if rules else None, now_us),
        issued_ms=issued_ms,
        expires_ms=record.expires_us // 1000,
        by=known["by"],
        note=known["note"],
        # Until its first use, `used_us` of a new record lies before the issue.
        used_ms=used_ms if used_ms > issued_ms else None,
        due_ms=None if rotate_after_s is None else issued_ms + rotate_after_s * 1000,
        replaced_by=replaced_by,
        read_ms=now_us // 1000,
    )


def _state(record: TokenRecord, idle_s: int | None, now_us: int) -> TokenState:
    """Return the state of a token as a guard determines it."""
    if record.revoked:
        return TokenState.REVOKED
    allowed_us = None if idle_s is None else idle_s * 1_000_000 + use_noted_us(idle_s)
    is_idle = allowed_us is not None and now_us - record.used_us > allowed_us
    return TokenState.EXPIRED if is_idle or record.expires_us <= now_us else TokenState.LIVE


@dataclass(frozen=True, slots=True)
class RevokedToken(Result):
    """A newly revoked token.

    Attributes:
        calls_before: Its commands in the audit log of the minute before; None if they were not
            counted, or the user may not read the audit log.
        is_partial: Whether only the newest events of that minute were counted.
        denied_since: The calls that were denied since; None as for `calls_before`.
    """

    identity: str
    id: str
    calls_before: int | None = None
    is_partial: bool = False
    denied_since: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the token as `--json` prints it."""
        names = ["id", "identity", "recorded_in_the_minute_before=calls_before"]
        if self.denied_since is not None:
            names.append("denied_since")
        return json_object(self, *names)


@dataclass(frozen=True, slots=True)
class Revocation(Change):
    """
    The result of a revocation.

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

    @property
    def denied_since(self) -> int | None:
        """Return the calls of all tokens that were denied since; None if they were not counted."""
        counts = [token.denied_since for token in self.tokens if token.denied_since is not None]
        return sum(counts) if len(counts) == len(self.tokens) else None

    def to_dict(self) -> dict[str, Any]:
        """Return the revocation as `--json` prints it."""
        shown = json_object(self, "bound_at=effective_us", "revoked=tokens", "unreadable")
        return self.with_nodes(shown)


def revoke(
    store: Store,
    *,
    token_id: str | None = None,
    identity: str | None = None,
    everything: bool = False,
) -> Revocation:
    """Revoke one token, all tokens of an identity, or all tokens.

    Raises:
        TypeError: Not exactly one of them is selected.
        UsageError: *token_id* is a token.
        OperationError (unknown-token-id): No token has *token_id*.
        OperationError (unknown-identity): There never was such an identity.
        OperationError (no-policy): No policy was ever loaded.
    """
    if (token_id is not None) + (identity is not None) + everything != 1:
        raise TypeError("give exactly one of `token_id`, `identity` and `all=True`")
    if token_id is None:
        require_known(store, identity)
    else:
        require_token_id(token_id)
    # The script reads an empty id as all: an unset variable must not revoke everything.
    if token_id == "":
        raise OperationError(
            "unknown-token-id",
            "no token has the id ``",
            help="see `keyleash token list` or `op.tokens.list()`",
        )
    reply = store.run(REVOKE, store.actor, identity or "", token_id or "")
    with reading_reply("EVAL"):
        effective_us = int(reply[0])
        words = [item.decode() for item in reply[1:]]
        pairs = list(zip(words[::2], words[1::2], strict=True))
    concerned = None if identity is None else [identity]
    if token_id is not None:
        # Leases are expired also for a token that was revoked before, perhaps not at all nodes.
        concerned = [name for name, _ in pairs] or [require_token(store, token_id).identity]
    return Revocation(
        effective_us,
        tokens=tuple(RevokedToken(name, id_) for name, id_ in pairs if id_),
        unreadable=tuple(name for name, id_ in pairs if not id_),
        nodes=expire_leases(store, concerned),
    )


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
    """

    issued: IssuedToken
    replaced: tuple[ReplacedToken, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the new token, with its secret, and the replaced ones as `--json` prints them."""
        return self.with_nodes({**self.issued.to_dict(), **json_object(self, "replaced")})


def rotate_token(
    store: Store,
    which: str | None = None,
    *,
    identity: str | None = None,
    token_id: str | None = None,
    grace_s: int = GRACE_S,
    ttl_s: int | None = None,
    note: str | None = None,
) -> Rotation:
    """
    Replace one token, or all live tokens of an identity, by a new one.

    Args:
        which: The name of an identity, or a token id. A name has precedence.
        identity: The identity whose live tokens, if any, are replaced.
        token_id: The token that is replaced.
        grace_s: The seconds for which replaced tokens remain valid, at most until they expire.
        note: As for `issue_token`; if None, the note of the replaced token.

    Raises:
        TypeError: Not exactly one of *which*, *identity* and *token_id* is given.
        UsageError: *which* or *token_id* is a token.
        OperationError (unknown-token-id): No token has the id.
        OperationError (unreadable): A token entry is corrupt.
        OperationError (token-not-live): The token is expired or revoked; nothing was issued.
        ValueError: The grace is negative. Otherwise as `issue_token`.
    """
    _require_int("grace", grace_s)
    if grace_s < 0:
        raise ValueError("`grace` must not be negative")
    if (which, identity, token_id).count(None) != 2:
        raise TypeError("give either a token id or an identity")
    if which is not None:
        require_token_id(which)
        # No token id has a hyphen.
        is_identity = "-" in which or bool(active_records(store, [which]))
        identity, token_id = (which, None) if is_identity else (None, which)
    if token_id is not None:
        old = require_token(store, token_id)
        identity, note = old.identity, old.note if note is None else note
    assert identity is not None  # noqa: S101 - one of them was given
    _check_request(identity, ttl_s, note or "")
    # The script does not validate the entries.
    _parsed(identity, *read_token_entries(store, [identity]))
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
        raise _not_active(store, identity)
    if isinstance(reply, int):
        raise OperationError(
            "token-not-live",
            f"the token `{token_id}` is expired or revoked; nothing was issued",
            help=f"issue one with `keyleash token issue {identity}`",
        )
    with reading_reply("EVAL"):
        issued = IssuedToken(token, new_id, identity, int(reply[0]), bool(reply[1]))
        pairs = zip(reply[2::2], reply[3::2], strict=True)
        replaced = tuple(ReplacedToken(id_.decode(), int(ends)) for id_, ends in pairs)
    return Rotation(issued, replaced, nodes=expire_leases(store, [identity]))
