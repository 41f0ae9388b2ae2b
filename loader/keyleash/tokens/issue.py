"""Issuing a token: the secret leaves once, Redis keeps its hash."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from keyleash.errors import NoPolicyError, UnknownIdentityError
from keyleash.policy import TokenRules, parse_policy
from keyleash.protocol.active import Client, read_active
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.sealed import server_keyspace
from keyleash.protocol.token import (
    KEEP_AFTER_EXPIRY_MS,
    TokenRecord,
    new_token,
    new_token_id,
    token_digest,
)

MAX_NOTE = 200


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
        client: A redis-py client of an operator, `decode_responses` off.
        identity: Its name.
        ttl_s: Wanted life in seconds; the policy's `ttl` if None, its `max_ttl` at most.
        note: For `list_tokens`, up to 200 characters; no secret.
        actor: Who issues it, for the control stream.
        keyspace: Where keys are; what the server's record says if None.

    Raises:
        NoPolicyError: no policy is active.
        UnknownIdentityError: the active policy has no such identity.
        ValueError: *ttl_s* is not positive, or *note* is too long.
    """
    if ttl_s is not None and ttl_s <= 0:
        raise ValueError("a token must live for at least a second")
    if len(note) > MAX_NOTE:
        raise ValueError(f"a note has at most {MAX_NOTE} characters")
    keyspace = keyspace or server_keyspace(client)
    rules = _rules(client, keyspace, identity)
    wanted_s = ttl_s if ttl_s is not None else rules.ttl_s
    life_s = min(wanted_s, rules.max_ttl_s)
    seconds, micros = client.time()
    now_us = int(seconds) * 1_000_000 + int(micros)
    expires_us = now_us // 1000 * 1000 + life_s * 1_000_000
    token = new_token(identity)
    record = TokenRecord(new_token_id(), expires_us=expires_us, used_us=now_us)
    _store(client, keyspace, identity, token_digest(token), record, (actor, note))
    return IssuedToken(token, record.id, identity, expires_us // 1000, life_s < wanted_s)


def _rules(client: Client, keyspace: Keyspace, identity: str) -> TokenRules:
    active = read_active(client, keyspace)
    if active is None:
        raise NoPolicyError("no policy is active", help="load one with `keyleash load FILE`")
    policy = parse_policy(active.document, file="<active policy>", commands=None)
    found = policy.identity(identity)
    if found is None:
        names = ", ".join(f"`{one.name}`" for one in policy.identities)
        raise UnknownIdentityError(
            f"the active policy has no identity `{identity}`", help=f"it has {names}"
        )
    return found.token


def _store(
    client: Client,
    keyspace: Keyspace,
    identity: str,
    digest: str,
    record: TokenRecord,
    by: tuple[str, str],
) -> None:
    actor, note = by
    expires_ms = record.expires_us // 1000
    known = {
        "digest": digest,
        "issued_ms": record.used_us // 1000,
        "expires_ms": expires_ms,
        "by": actor,
        "note": note,
    }
    with client.pipeline(transaction=True) as pipe:
        pipe.set(
            keyspace.token(identity, digest), record.pack(), pxat=expires_ms + KEEP_AFTER_EXPIRY_MS
        )
        pipe.hset(keyspace.tokens(identity), record.id, json.dumps(known))
        pipe.xadd(
            keyspace.control,
            {"event": "issue", "actor": actor, "identity": identity, "token": record.id},
        )
        pipe.execute()
