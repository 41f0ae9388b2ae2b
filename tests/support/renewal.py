"""Tokens that were issued earlier than they were."""

from __future__ import annotations

import json
from dataclasses import replace

from keyleash.store.token import TokenRecord, token_digest
from support.leash import NAMES, Leash

HOUR_MS = 3_600_000


def record_of(leash: Leash, token: str, identity: str = "one") -> tuple[TokenRecord, int]:
    """Return the record of a token, and when it goes away."""
    key = NAMES.token(identity, token_digest(token))
    return TokenRecord.unpack(leash.admin.get(key)), leash.admin.pexpiretime(key)


def pass_time(leash: Leash, token: str, hours: float, identity: str = "one") -> None:
    """Rewrite a token as if it had been issued earlier."""
    record, _ = record_of(leash, token, identity)
    passed_ms = round(hours * HOUR_MS)
    entry = json.loads(leash.admin.hget(NAMES.tokens(identity), record.id))
    for name in ("issued_ms", "expires_ms"):
        entry[name] -= passed_ms
    leash.admin.hset(NAMES.tokens(identity), record.id, json.dumps(entry))
    earlier = replace(record, expires_us=record.expires_us - passed_ms * 1000)
    leash.put_token(identity, token, earlier)
