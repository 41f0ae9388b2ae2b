"""Tokens that were issued earlier than they were."""

from __future__ import annotations

import json
from dataclasses import replace

from keyleash.store.keyspace import Keyspace
from keyleash.store.server_check import Client
from keyleash.store.token import TokenRecord, token_digest
from support.leash import NAMES, Leash, put_token

HOUR_MS = 3_600_000


def record_of(leash: Leash, token: str, identity: str = "one") -> tuple[TokenRecord, int]:
    """Return the record of a token, and when it goes away."""
    return read_record(leash.admin, NAMES, token, identity)


def read_record(
    admin: Client, names: Keyspace, token: str, identity: str
) -> tuple[TokenRecord, int]:
    """The same by a client with other names."""
    key = names.token(identity, token_digest(token))
    return TokenRecord.unpack(admin.get(key)), admin.pexpiretime(key)


def pass_time(leash: Leash, token: str, hours: float, identity: str = "one") -> None:
    """Rewrite a token as if it had been issued earlier."""
    date_back(leash.admin, NAMES, token, hours, identity)


def date_back(admin: Client, names: Keyspace, token: str, hours: float, identity: str) -> None:
    """The same by a client with other names."""
    record, _ = read_record(admin, names, token, identity)
    passed_ms = round(hours * HOUR_MS)
    entry = json.loads(admin.hget(names.tokens(identity), record.id))
    for name in ("issued_ms", "expires_ms"):
        entry[name] -= passed_ms
    admin.hset(names.tokens(identity), record.id, json.dumps(entry))
    earlier = replace(record, expires_us=record.expires_us - passed_ms * 1000)
    put_token(admin, identity, token, earlier, names)
