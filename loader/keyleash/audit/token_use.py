"""How often a token was used, as far as trails tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from itertools import islice

from keyleash.audit.query import Query
from keyleash.audit.reader import read_denials, read_events
from keyleash.errors import ReplyCode
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace


def recorded_calls(
    client: Client,
    keyspace: Keyspace,
    identity: str,
    token_id: str,
) -> int:
    """How many commands the identity's trail still has of a token, those of batches one by one.

    That is less than were let through: commands that only read are recorded where the policy
    says so, and a trail is trimmed.
    """
    query = Query(token=token_id)
    return sum(1 for _ in read_events(client, keyspace, [identity], query))


def recent_calls(
    client: Client,
    keyspace: Keyspace,
    identities: Collection[str],
    span_ms: tuple[int, int],
    at_most: int,
) -> tuple[Counter[str], frozenset[str]]:
    """How many commands trails have of a stretch of time, by token id.

    Args:
        client: A redis-py client of an operator, `decode_responses` off.
        keyspace: Where the control keys are.
        identities: Whose trails.
        span_ms: From when until when, both included: server time, Unix milliseconds.
        at_most: Of each trail no more than these, the newest, are looked at.

    Returns:
        The numbers, and the identities whose trail has more than was looked at.
    """
    query = Query(since_ms=span_ms[0], until_ms=span_ms[1])
    found: Counter[str] = Counter()
    more = set()
    for identity in identities:
        events = read_events(client, keyspace, [identity], query, newest_first=True)
        found.update(event.token for event in islice(events, at_most))
        if next(events, None) is not None:
            more.add(identity)
    return found, frozenset(more)


def refused_as_revoked(
    client: Client, keyspace: Keyspace, identities: Collection[str], since_ms: int | None = None
) -> Counter[str]:
    """How many calls were refused because their token is revoked, by token id.

    What was refused alike within a minute is counted from the first on; only if that came
    before *since_ms* it is left out.
    """
    query = Query(code=ReplyCode.TOKEN_REVOKED, since_ms=since_ms)
    found: Counter[str] = Counter()
    for denial in read_denials(client, keyspace, identities, query):
        found[denial.token] += denial.repeats
    return found
