"""What identities were refused a moment ago, by code."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from keyleash.audit import read_denials
from keyleash.audit.query import Query
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace

RECENT_S = 300
"""For so long a refusal is recent."""


@dataclass(slots=True)
class Refusals:
    """
    Refusals of one code.

    Attributes:
        count: Calls that were refused. What is refused alike within a minute counts as of the
            first time, since that is what is recorded.
        last_ms: When a refusal was last recorded, server time.
    """

    count: int = 0
    last_ms: int = 0


def read_recent_refusals(
    client: Client, keyspace: Keyspace, identities: Sequence[str], now_ms: int
) -> dict[str, dict[str, Refusals]]:
    """By identity and code; who was not refused is not in it."""
    since_ms = max(0, now_ms - RECENT_S * 1000)
    found: dict[str, dict[str, Refusals]] = defaultdict(lambda: defaultdict(Refusals))
    some = _refused(client, keyspace, identities, since_ms)
    for one in read_denials(client, keyspace, some, Query(since_ms=since_ms)):
        refusals = found[one.identity][one.code]
        refusals.count += one.repeats
        refusals.last_ms = max(refusals.last_ms, one.time_ms)
    return {name: dict(by_code) for name, by_code in found.items()}


def _refused(
    client: Client, keyspace: Keyspace, identities: Sequence[str], since_ms: int
) -> list[str]:
    """Those who have anything recent: of the others nothing need be read."""
    with client.pipeline(transaction=False) as pipe:
        for name in identities:
            pipe.xrevrange(keyspace.denied(name), "+", since_ms, count=1)
        replies = pipe.execute() if identities else []
    return [name for name, newest in zip(identities, replies, strict=True) if newest]
