"""How many tokens of an identity are live, and how old they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from keyleash.policy import Identity
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.token import TokenRecord


@dataclass(frozen=True, slots=True)
class OldestToken:
    """
    The live token that was issued first.

    Attributes:
        issued_ms: Server time, Unix milliseconds.
        is_due: Whether it is older than the policy's `rotate_after`.
    """

    id: str
    issued_ms: int
    is_due: bool


@dataclass(frozen=True, slots=True)
class TokenCount:
    """
    The live tokens of an identity.

    Attributes:
        live: How many there are.
        due: How many of them are older than `rotate_after`.
        oldest: None if there is none.
    """

    live: int = 0
    due: int = 0
    oldest: OldestToken | None = None


def read_token_counts(
    client: Client, keyspace: Keyspace, identities: Sequence[Identity], now_ms: int
) -> Iterator[TokenCount]:
    """
    Count the live tokens of each identity, in their order; nothing is written.

    Args:
        client: An operator's client, `decode_responses` off.
        keyspace: Where the control keys are.
        identities: From the active policy.
        now_ms: Server time, Unix milliseconds.
    """
    known = _known(client, keyspace, identities)
    with client.pipeline(transaction=False) as pipe:
        for identity, tokens in zip(identities, known, strict=True):
            if tokens:
                pipe.mget([keyspace.token(identity.name, one["digest"]) for one in tokens.values()])
        replies = iter(pipe.execute() if any(known) else ())
    for identity, tokens in zip(identities, known, strict=True):
        packed = next(replies) if tokens else ()
        issued = {token_id: int(one["issued_ms"]) for token_id, one in tokens.items()}
        live = [
            (issued[token_id], token_id)
            for token_id, record in zip(tokens, packed, strict=True)
            if record is not None and _is_live(TokenRecord.unpack(record), now_ms * 1000)
        ]
        yield _count(live, identity.token.rotate_after_s, now_ms)


def _known(
    client: Client, keyspace: Keyspace, identities: Sequence[Identity]
) -> list[dict[str, Mapping[str, str]]]:
    with client.pipeline(transaction=False) as pipe:
        for identity in identities:
            pipe.hgetall(keyspace.tokens(identity.name))
        replies = pipe.execute() if identities else []
    return [
        {token_id.decode(): json.loads(text) for token_id, text in one.items()} for one in replies
    ]


def _is_live(record: TokenRecord, now_us: int) -> bool:
    return not record.revoked and record.expires_us > now_us


def _count(live: Sequence[tuple[int, str]], rotate_after_s: int | None, now_ms: int) -> TokenCount:
    if not live:
        return TokenCount()
    due_ms = None if rotate_after_s is None else now_ms - rotate_after_s * 1000
    due = sum(due_ms is not None and issued_ms <= due_ms for issued_ms, _ in live)
    issued_ms, token_id = min(live)
    return TokenCount(len(live), due, OldestToken(token_id, issued_ms, due > 0))
