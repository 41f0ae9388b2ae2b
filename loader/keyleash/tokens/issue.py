"""Issuing a token: the secret leaves once, Redis keeps its hash."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from keyleash.policy import TokenRules
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client
from keyleash.protocol.sealed import server_keyspace
from keyleash.protocol.token import (
    KEEP_AFTER_EXPIRY_MS,
    TokenRecord,
    new_record,
    new_token,
    new_token_id,
    reject_tokens,
    token_digest,
)
from keyleash.tokens.rules import active_rules, require_rules

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


@dataclass(frozen=True, slots=True)
class Minted:
    """A token that no server knows yet, and what is to be stored of it.

    Attributes:
        known: JSON, for `list_tokens`.
    """

    issued: IssuedToken
    record: TokenRecord
    known: str

    @property
    def digest(self) -> str:
        """By which the server will know it."""
        return token_digest(self.issued.token)


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
        SecretInTextError: *note* or *actor* contains a token; nothing was issued.
        ValueError: *ttl_s* is not positive, or *note* is too long.
    """
    client = operator_client(client)
    reject_tokens(note=note, actor=actor)
    keyspace = keyspace or server_keyspace(client)
    rules = require_rules(active_rules(client, keyspace), identity)
    minted = mint_token(client, identity, rules, ttl_s=ttl_s, note=note, actor=actor)
    _store(client, keyspace, minted, actor)
    return minted.issued


def mint_token(
    client: Client, identity: str, rules: TokenRules, *, ttl_s: int | None, note: str, actor: str
) -> Minted:
    """Make a token by the server's clock; arguments as for `issue_token`."""
    if ttl_s is not None and ttl_s <= 0:
        raise ValueError("a token must live for at least a second")
    if len(note) > MAX_NOTE:
        raise ValueError(f"a note has at most {MAX_NOTE} characters")
    wanted_s = ttl_s if ttl_s is not None else rules.ttl_s
    life_s = min(wanted_s, rules.max_ttl_s)
    seconds, micros = client.time()
    now_us = int(seconds) * 1_000_000 + int(micros)
    token = new_token(identity)
    record = new_record(new_token_id(), now_us, life_s, rules.idle_s)
    expires_ms = record.expires_us // 1000
    known = {
        "digest": token_digest(token),
        "issued_ms": now_us // 1000,
        "expires_ms": expires_ms,
        "by": actor,
        "note": note,
    }
    issued = IssuedToken(token, record.id, identity, expires_ms, life_s < wanted_s)
    return Minted(issued, record, json.dumps(known))


def _store(client: Client, keyspace: Keyspace, minted: Minted, actor: str) -> None:
    identity, token_id = minted.issued.identity, minted.issued.id
    with client.pipeline(transaction=True) as pipe:
        pipe.set(
            keyspace.token(identity, minted.digest),
            minted.record.pack(),
            pxat=minted.issued.expires_ms + KEEP_AFTER_EXPIRY_MS,
        )
        pipe.hset(keyspace.tokens(identity), token_id, minted.known)
        pipe.xadd(
            keyspace.control,
            {"event": "issue", "actor": actor, "identity": identity, "token": token_id},
        )
        pipe.execute()
