"""How many tokens of an identity are live, and how old they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyleash.errors import UnexpectedReplyError
from keyleash.policy import Identity
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.token import TokenRecord
from keyleash.tokens.registry import TokenInfo, TokenState, read_known, token_info


@dataclass(frozen=True, slots=True)
class OldestToken:
    """
    The live token that was issued first.

    Attributes:
        issued_ms: Server time, Unix milliseconds.
        is_due: Whether it ought to have been rotated; one that was rotated is not due.
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
        due: How many of them ought to have been rotated by the policy's `rotate_after`.
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
        if len(packed) != len(tokens):
            raise UnexpectedReplyError("MGET")
        infos = [
            token_info(
                token_id,
                identity.name,
                tokens[token_id],
                TokenRecord.unpack(record),
                identity.token,
                now_ms * 1000,
            )
            for token_id, record in zip(tokens, packed, strict=True)
            if record is not None
        ]
        yield _count([one for one in infos if one.state is TokenState.LIVE], now_ms)


def _known(
    client: Client, keyspace: Keyspace, identities: Sequence[Identity]
) -> list[dict[str, Mapping[str, Any]]]:
    with client.pipeline(transaction=False) as pipe:
        for identity in identities:
            pipe.hgetall(keyspace.tokens(identity.name))
        replies = pipe.execute() if identities else []
    return [
        read_known(identity.name, one) for identity, one in zip(identities, replies, strict=True)
    ]


def _count(live: Sequence[TokenInfo], now_ms: int) -> TokenCount:
    if not live:
        return TokenCount()
    oldest = min(live, key=lambda one: one.issued_ms)
    return TokenCount(
        live=len(live),
        due=sum(one.is_due(now_ms) for one in live),
        oldest=OldestToken(oldest.id, oldest.issued_ms, oldest.is_due(now_ms)),
    )
