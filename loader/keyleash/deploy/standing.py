"""How the server has each identity before a load."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from keyleash.compiler import CompiledGuard
from keyleash.protocol.active import Client, GuardRecord, guard_record
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.state import DOUBLE, whole
from keyleash.protocol.transport import Transport

BATCH = 100
"""Identities per pipeline, so that no reply is awaited for long and the server breathes between."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Standing:
    """
    An identity as the server has it.

    Attributes:
        record: Its guard record; None if it is in no active policy.
        stamp: Whose its state is; 0 if no guard's, or there is none.
        size: Of its state in bytes; 0 if there is none.
        sources: Digests of the scripts whose text is kept.
    """

    record: GuardRecord | None = None
    stamp: int = 0
    size: int = 0
    sources: frozenset[str] = frozenset()

    def is_of(self, guard: CompiledGuard, commands: str, transport: Transport) -> bool:
        """Whether the identity already has *guard*, called so, and its state is that guard's."""
        return (
            self.record is not None
            and self.record == record_of(guard, self.record.generation, commands, transport)
            and self.stamp == guard.stamp
        )


def read_standings(
    client: Client, keyspace: Keyspace, identities: Iterable[str]
) -> dict[str, Standing]:
    """
    Read how *identities* stand.

    A flush may have taken records, states or sources, and the same policy becomes other
    guards when the server has other commands.

    Raises:
        redis.ResponseError: a key is not of the type that it must have.
    """
    found = {}
    for names in batches(identities):
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(keyspace.guard(name))
                pipe.getrange(keyspace.state(name), 0, DOUBLE - 1)
                pipe.strlen(keyspace.state(name))
                pipe.hkeys(keyspace.source(name))
            replies = pipe.execute()
        for place, name in enumerate(names):
            record, stamp, size, sources = replies[place * 4 : place * 4 + 4]
            found[name] = Standing(
                guard_record(record),
                whole(struct.unpack("<d", stamp)[0]) if len(stamp) == DOUBLE else 0,
                size,
                frozenset(digest.decode() for digest in sources),
            )
    return found


def record_of(
    guard: CompiledGuard, generation: int, commands: str, transport: Transport
) -> GuardRecord:
    """Return the guard record that an activation writes for *guard*."""
    identity = guard.plan.identity
    durability, token = identity.durability, identity.token
    return GuardRecord(
        digest=guard.digest,
        batch_digest=guard.batch_digest,
        policy_digest=guard.policy_digest,
        generation=generation,
        commands=commands,
        transport=transport,
        wait_replicas=durability.wait_replicas,
        wait_ms=durability.timeout_ms,
        ttl_s=token.ttl_s,
        max_ttl_s=token.max_ttl_s,
        idle_s=token.idle_s or 0,
        rotate_after_s=token.rotate_after_s or 0,
    )


def batches(items: Iterable[_T], size: int = BATCH) -> Iterator[Sequence[_T]]:
    """Cut *items* into pieces of *size*."""
    rest = iter(items)
    while piece := tuple(islice(rest, size)):
        yield piece
