"""What is known of the tokens that were issued."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.sealed import server_keyspace
from keyleash.protocol.token import TokenRecord


class TokenState(StrEnum):
    """The states of a token."""

    LIVE = "live"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token by its public name; times are server time, Unix milliseconds."""

    id: str
    identity: str
    state: TokenState
    issued_ms: int
    expires_ms: int
    by: str
    note: str


def list_tokens(
    client: Client, identity: str | None = None, *, keyspace: Keyspace | None = None
) -> list[TokenInfo]:
    """The tokens of one identity, or of all, newest first.

    Tokens that expired more than a week ago are forgotten on this occasion.
    """
    keyspace = keyspace or server_keyspace(client)
    if identity is not None:
        names = [identity]
    else:
        names = sorted(name.decode() for name in client.hkeys(keyspace.layouts))
    seconds, _ = client.time()
    found = [info for name in names for info in _of_identity(client, keyspace, name, int(seconds))]
    return sorted(found, key=lambda info: info.issued_ms, reverse=True)


def _of_identity(
    client: Client, keyspace: Keyspace, identity: str, now_s: int
) -> Iterator[TokenInfo]:
    known = {
        token_id.decode(): json.loads(text)
        for token_id, text in client.hgetall(keyspace.tokens(identity)).items()
    }
    if not known:
        return
    records = client.mget([keyspace.token(identity, one["digest"]) for one in known.values()])
    forgotten = []
    for (token_id, one), packed in zip(known.items(), records, strict=True):
        if packed is None:
            forgotten.append(token_id)
            continue
        record = TokenRecord.unpack(packed)
        yield TokenInfo(
            id=token_id,
            identity=identity,
            state=_state(record, now_s * 1_000_000),
            issued_ms=one["issued_ms"],
            expires_ms=one["expires_ms"],
            by=one["by"],
            note=one["note"],
        )
    if forgotten:
        client.hdel(keyspace.tokens(identity), *forgotten)


def _state(record: TokenRecord, now_us: int) -> TokenState:
    if record.revoked:
        return TokenState.REVOKED
    return TokenState.EXPIRED if record.expires_us <= now_us else TokenState.LIVE
