"""Issue, list, rotate and revoke tokens.

In all functions *client* is a redis-py client of an operator, *actor* the operator's name for the
control stream, and *keyspace* is read from the server if None.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import Any

from redis import exceptions as redis_errors

from keyleash.errors import OperationError
from keyleash.policy import Identity, TokenRules, parse_policy
from keyleash.policy.problems import which_identity
from keyleash.store.identities import (
    active_records,
    known_identities,
    require_active,
)
from keyleash.store.scripts import ISSUE_TOKENS, REVOKE, ROTATE_TOKEN
from keyleash.store.store import Store, batches
from keyleash.store.token import (
    TokenRecord,
    new_token,
    new_token_id,
    reject_tokens,
    token_digest,
    use_noted_us,
)
from keyleash.store.wire import reading_reply

MAX_NOTE = 200
PIECE = 100
"""Tokens per script call: the server does nothing else meanwhile, for about 20 µs each."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token; `token` is the secret, and is stored nowhere else.

    Attributes:
        expires_ms: When it expires, server time, Unix milliseconds.
        capped: Whether the requested life was longer than the policy's `max_ttl`.
    """

    token: str = field(repr=False)
    id: str
    identity: str
    expires_ms: int
    capped: bool


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
        ValueError: *ttl_s* is not positive, or *note* is too long.
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
        _require_int("ttl_s", ttl_s)
    reject_tokens(note=note)
    if ttl_s is not None and ttl_s <= 0:
        raise ValueError("a token must live for at least a second")
    if len(note) > MAX_NOTE:
        raise ValueError(f"a note has at most {MAX_NOTE} characters")


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
class TokenInfo:
    """A token, without its secret; times are server time, Unix milliseconds.

    Attributes:
        state: Also expired if it was idle for longer than the active policy allows.
        expires_ms: When it expires, also if it was rotated.
        used_ms: When it was last used: exact to a minute, or to a second if the policy has an idle
            time; None if never.
        due_ms: When it is due for rotation; None if never, or if it was rotated.
        replaced_by: The id of the token that replaced it; empty if none.
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

    def is_due(self, now_ms: int) -> bool:
        """Return whether it is overdue for rotation."""
        return self.state is TokenState.LIVE and self.due_ms is not None and self.due_ms <= now_ms


def list_tokens(store: Store, identity: str | None = None) -> list[TokenInfo]:
    """Return the tokens of one identity, or of all, newest first.

    Deletes the entries of tokens that expired more than a week ago, if *client* may write.
    """
    names = known_identities(store) if identity is None else [identity]
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
                store.client.hdel(store.keys.tokens(name), *expired)
    return sorted(found, key=lambda info: info.issued_ms, reverse=True)


def read_tokens(
    store: Store, rules: Mapping[str, TokenRules | None], now_us: int
) -> Iterator[tuple[str, list[TokenInfo], list[str]]]:
    """
    Yield identities with their tokens, and the ids of entries whose records are deleted.

    Args:
        rules: The token rules of each identity to read; None if it is not in the active policy.
        now_us: Server time.

    Raises:
        OperationError (unreadable): An entry is corrupt.
    """
    for names in batches(rules):
        with store.client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(store.keys.tokens(name))
            entries = {
                name: _parsed(name, raw)
                for name, raw in zip(names, pipe.execute(), strict=True)
                if raw
            }
        with store.client.pipeline(transaction=False) as pipe:
            for name, known in entries.items():
                pipe.mget([store.keys.token(name, item["digest"]) for item in known.values()])
            replies = pipe.execute() if entries else []
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
        OperationError (unknown-token-id): No token has it.
    """
    for info in list_tokens(store):
        if info.id == token_id:
            return info
    raise OperationError(
        "unknown-token-id", f"no token has the id `{token_id}`", help="see `keyleash token list`"
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
                f"the record of a token of `{identity}` is corrupt",
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
    )


def _state(record: TokenRecord, idle_s: int | None, now_us: int) -> TokenState:
    """Return the state of a token as a guard determines it."""
    if record.revoked:
        return TokenState.REVOKED
    allowed_us = None if idle_s is None else idle_s * 1_000_000 + use_noted_us(idle_s)
    is_idle = allowed_us is not None and now_us - record.used_us > allowed_us
    return TokenState.EXPIRED if is_idle or record.expires_us <= now_us else TokenState.LIVE


@dataclass(frozen=True, slots=True)
class Revocation:
    """
    The result of a revocation.

    Attributes:
        bound_us: Server time of the revocation, Unix µs: all later calls are denied.
        tokens: (identity, token id) of each newly revoked token, including expired ones that still
            have a record.
        unreadable: The identity of each token that could not be revoked, because its entry is
            corrupt.
    """

    bound_us: int
    tokens: tuple[tuple[str, str], ...]
    unreadable: tuple[str, ...] = ()


def revoke(store: Store, *, token_id: str | None = None, identity: str | None = None) -> Revocation:
    """Revoke one token, all of an identity, or, with neither named, all tokens.

    Raises:
        OperationError (unknown-token-id): No token has *token_id*.
        OperationError (unknown-identity): *identity* is empty.
    """
    # The script reads an empty name as all: an unset variable must not revoke everything.
    if token_id == "":
        raise OperationError(
            "unknown-token-id", "no token has the id ``", help="see `keyleash token list`"
        )
    if identity == "":
        raise OperationError(
            "unknown-identity", "there is no identity ``", help="see `keyleash status`"
        )
    reply = store.run(REVOKE, store.actor, identity or "", token_id or "")
    with reading_reply("EVAL"):
        bound_us = int(reply[0])
        words = [item.decode() for item in reply[1:]]
        pairs = list(zip(words[::2], words[1::2], strict=True))
    if token_id is not None and not pairs:
        require_token(store, token_id)
    return Revocation(
        bound_us=bound_us,
        tokens=tuple((name, id_) for name, id_ in pairs if id_),
        unreadable=tuple(name for name, id_ in pairs if not id_),
    )


GRACE_S = 600


@dataclass(frozen=True, slots=True)
class Rotation:
    """
    The result of a rotation.

    Attributes:
        issued: The new token.
        replaced: The id and the end, server time in Unix milliseconds, of each replaced token.
    """

    issued: IssuedToken
    replaced: tuple[tuple[str, int], ...]


def rotate_token(
    store: Store,
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
        identity: The identity whose live tokens, if any, are replaced. Either this or *token_id*.
        token_id: The token that is replaced.
        grace_s: The seconds for which replaced tokens remain valid, at most until they expire.
        note: As for `issue_token`; if None, the note of the replaced token.

    Raises:
        OperationError (unknown-token-id): No token has *token_id*.
        OperationError (unreadable): A token entry is corrupt.
        OperationError (token-not-live): The token is expired or revoked; nothing was issued.
        ValueError: *grace_s* is negative. Otherwise as `issue_token`.
    """
    _require_int("grace_s", grace_s)
    if grace_s < 0:
        raise ValueError("a grace cannot be negative")
    if token_id is not None:
        old = require_token(store, token_id)
        identity, note = old.identity, old.note if note is None else note
    if identity is None:
        raise ValueError("neither an identity nor a token is named")
    _check_request(identity, ttl_s, note or "")
    # The script does not validate the entries.
    _parsed(identity, store.client.hgetall(store.keys.tokens(identity)))
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
        return Rotation(issued, tuple((id_.decode(), int(ends)) for id_, ends in pairs))
