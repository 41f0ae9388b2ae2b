"""What is known of the tokens that were issued."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from redis import exceptions as redis_errors

from keyleash.errors import UnknownTokenIdError, UnreadableRecordError
from keyleash.policy import TokenRules
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client
from keyleash.protocol.sealed import server_keyspace
from keyleash.protocol.token import TokenRecord, use_noted_us
from keyleash.tokens.rules import active_rules


class TokenState(StrEnum):
    """The states of a token."""

    LIVE = "live"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token by its public name; times are server time, Unix milliseconds.

    Attributes:
        state: Expired, too, if it was idle for longer than the active policy allows.
        expires_ms: When its life ends, also if it was rotated.
        used_ms: When it was last let through: exact to a minute, or to a second where the
            policy has an idle time; None if never.
        due_ms: When the active policy wants it rotated; None if it does not, or if that
            has happened.
        replaced_by: Id of the token that it was rotated to; empty if none.
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
        """Whether it ought to have been rotated by *now_ms*."""
        return self.state is TokenState.LIVE and self.due_ms is not None and self.due_ms <= now_ms


def list_tokens(
    client: Client, identity: str | None = None, *, keyspace: Keyspace | None = None
) -> list[TokenInfo]:
    """The tokens of one identity, or of all, newest first.

    Tokens that expired more than a week ago are forgotten on this occasion, if *client* may write.
    """
    client = operator_client(client)
    keyspace = keyspace or server_keyspace(client)
    if identity is not None:
        names = [identity]
    else:
        names = sorted(name.decode() for name in client.hkeys(keyspace.layouts))
    rules = active_rules(client, keyspace, names)
    seconds, micros = client.time()
    now_us = int(seconds) * 1_000_000 + int(micros)
    found = [
        info
        for name in names
        for info in _of_identity(client, keyspace, name, rules.get(name), now_us)
    ]
    return sorted(found, key=lambda info: info.issued_ms, reverse=True)


def require_token(client: Client, token_id: str, *, keyspace: Keyspace | None = None) -> TokenInfo:
    """The token of that id.

    Raises:
        UnknownTokenIdError: no token has it.
    """
    for info in list_tokens(client, keyspace=keyspace):
        if info.id == token_id:
            return info
    raise UnknownTokenIdError(f"no token has the id `{token_id}`", help="see `keyleash token list`")


def _of_identity(
    client: Client, keyspace: Keyspace, identity: str, rules: TokenRules | None, now_us: int
) -> Iterator[TokenInfo]:
    known = read_known(identity, client.hgetall(keyspace.tokens(identity)))
    if not known:
        return
    records = client.mget([keyspace.token(identity, one["digest"]) for one in known.values()])
    forgotten = []
    for (token_id, one), packed in zip(known.items(), records, strict=True):
        if packed is None:
            forgotten.append(token_id)
            continue
        yield token_info(token_id, identity, one, TokenRecord.unpack(packed), rules, now_us)
    if forgotten:
        # Whoever may only read, or asks a replica, is not there to tidy up.
        with suppress(redis_errors.ResponseError):
            client.hdel(keyspace.tokens(identity), *forgotten)


def read_known(identity: str, recorded: Mapping[bytes, bytes]) -> dict[str, Mapping[str, Any]]:
    """
    What `Keyspace.tokens` has of each token of *identity*, by its id.

    Raises:
        UnreadableRecordError: Somebody else wrote there.
    """
    known = {}
    for token_id, text in recorded.items():
        try:
            facts = json.loads(text)
            str.encode(facts["digest"])
            int(facts["issued_ms"])
        except (ValueError, LookupError, TypeError):
            raise UnreadableRecordError(
                f"what is recorded of a token of `{identity}` cannot be read",
                help="find out who wrote to keyleash's keys; `keyleash doctor` looks at all",
            ) from None
        known[token_id.decode("utf-8", "backslashreplace")] = facts
    return known


def token_info(
    token_id: str,
    identity: str,
    known: Mapping[str, Any],
    record: TokenRecord,
    rules: TokenRules | None,
    now_us: int,
) -> TokenInfo:
    """
    What is known of one token.

    Args:
        token_id: Its public name.
        identity: Whose it is.
        known: What `Keyspace.tokens` has of it, read.
        record: What guards know of it.
        rules: Those of the active policy; None if the identity left it.
        now_us: Server time.
    """
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
        # See protocol.token.new_record; up to that version it was the moment of the issue.
        used_ms=used_ms if used_ms > issued_ms else None,
        due_ms=None if rotate_after_s is None else issued_ms + rotate_after_s * 1000,
        replaced_by=replaced_by,
    )


def _state(record: TokenRecord, idle_s: int | None, now_us: int) -> TokenState:
    """As a guard judges it."""
    if record.revoked:
        return TokenState.REVOKED
    allowed_us = None if idle_s is None else idle_s * 1_000_000 + use_noted_us(idle_s)
    is_idle = allowed_us is not None and now_us - record.used_us > allowed_us
    return TokenState.EXPIRED if is_idle or record.expires_us <= now_us else TokenState.LIVE
