"""Resetting limits: what an identity's rates and budgets have counted is forgotten."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keyleash.errors import OperationError
from keyleash.limits import COUNTS
from keyleash.limits.counters import DOUBLE
from keyleash.operator.load.plan import batches
from keyleash.policy import Identity, Limit, SubjectKind, parse_policy
from keyleash.policy.problems import did_you_mean, listing, which_identity
from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import server_keyspace
from keyleash.store.records import Client, read_active
from keyleash.store.scripts import RESET_LIMITS
from keyleash.store.server_check import operator_client
from keyleash.store.state import MAX_REASON_BYTES, Layout
from keyleash.store.token import reject_tokens

PIECE = 5000
"""Counters that one script deletes: the server serves nobody meanwhile."""
SCANNED = 1000
"""Keys that one step of the search for them looks at."""
ROUNDS = 3
"""How often a reset is tried while policies are loaded."""


@dataclass(frozen=True, slots=True)
class LimitReset:
    """
    What a reset did.

    Attributes:
        bound_us: When, server time, Unix µs: calls that start later count from 0.
        event: Id of the control event.
        identity: Whose limits were reset.
        limits: Their names, in the order of the policy.
        counters: How many counters per token or per captured segment were deleted.
    """

    bound_us: int
    event: str
    identity: str
    limits: tuple[str, ...]
    counters: int


def reset_limits(
    client: Client,
    identity: str,
    limit: str | None = None,
    *,
    reason: str,
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> LimitReset:
    """
    Forget what limits of an identity have counted: the next call counts from 0.

    A limit `per: token` or per captured segment is reset for all of them. Their counters are
    found by SCAN. Up to `PIECE` of them are deleted in the same script that does the rest;
    further ones follow in scripts of their own. A counter that begins after the search is left.

    It also runs on a server whose memory is full.

    Args:
        client: A redis-py client of an operator.
        identity: Its name in the active policy.
        limit: The name of one of its limits, such as `rate.writes`; all of them if None.
        reason: Why, for the control stream, up to 128 bytes; without a token.
        actor: Who does it, for the control stream.
        keyspace: Where keys are; what the server's record says if None.

    Raises:
        OperationError (no-policy): no policy is active.
        OperationError (unknown-identity): the active policy has no such identity.
        OperationError (unknown-limit): the identity has no such limit.
        OperationError (activation-conflict): policies were loaded meanwhile.
        OperationError (vault-changing): prefixes are being changed.
        SecretInTextError: *reason* or *actor* contains a token; nothing was changed.
        ValueError: *reason* is empty or too long.
    """
    client = operator_client(client)
    reject_tokens(reason=reason, actor=actor)
    if not reason.strip():
        raise ValueError("a reset has a reason")
    if len(reason.encode()) > MAX_REASON_BYTES:
        raise ValueError(f"a reason has at most {MAX_REASON_BYTES} bytes")
    keyspace = keyspace or server_keyspace(client)
    for _ in range(ROUNDS):
        found = _reset(client, keyspace, identity, limit, reason, actor)
        if found is not None:
            return found
    raise OperationError(
        "activation-conflict",
        "policies are loaded again and again; nothing was reset",
        help="try again",
    )


def _reset(
    client: Client, keyspace: Keyspace, identity: str, limit: str | None, reason: str, actor: str
) -> LimitReset | None:
    """Return None if another policy was activated between the plan and the reset."""
    layout = client.hget(keyspace.layouts, identity) or b"[]"
    limits = _chosen(_active_identity(client, keyspace, identity), limit)
    names = {item.name for item in limits}
    counters = list(_counters(client, keyspace, identity, limits))
    pieces = list(batches(counters, PIECE)) or [()]
    slots = _packed_slots(Layout.from_json(layout), names)
    head = (actor, identity, reason, layout)
    listed = ",".join(item.name for item in limits)
    said = _run(client, keyspace, *head, listed, slots, len(counters), *pieces[0])
    if said == 0:
        return None
    bound_us, event = _checked(said)
    for piece in pieces[1:]:
        layout = client.hget(keyspace.layouts, identity)
        _checked(_run(client, keyspace, actor, identity, reason, layout, "", b"", 0, *piece))
    return LimitReset(
        int(bound_us),
        event.decode(),
        identity,
        tuple(item.name for item in limits),
        len(counters),
    )


def _run(client: Client, keyspace: Keyspace, *words: str | bytes | int) -> Any:
    return client.eval(RESET_LIMITS.text, *RESET_LIMITS.arguments(keyspace, *words))


def _active_identity(client: Client, keyspace: Keyspace, name: str) -> Identity:
    active = read_active(client, keyspace)
    if active is None:
        raise OperationError(
            "no-policy", "no policy is active", help="load one with `keyleash load FILE`"
        )
    policy = parse_policy(active.document, file="<active policy>", commands=None)
    identity = policy.identity(name)
    if identity is None:
        known = [item.name for item in policy.identities]
        raise OperationError(
            "unknown-identity",
            f"the active policy has no identity `{name}`",
            help=which_identity(name, known),
        )
    return identity


def _chosen(identity: Identity, name: str | None) -> tuple[Limit, ...]:
    limits = tuple(identity.limits)
    if name is None and limits:
        return limits
    chosen = tuple(limit for limit in limits if limit.name == name)
    if not chosen:
        known = [limit.name for limit in limits]
        has = f"it has {listing(known)}" if known else "it has no limits"
        what = "limits" if name is None else f"limit `{name}`"
        help = has if name is None else did_you_mean(name, known, has)
        raise OperationError("unknown-limit", f"`{identity.name}` has no {what}", help=help)
    return chosen


def _counters(
    client: Client, keyspace: Keyspace, identity: str, limits: Sequence[Limit]
) -> Iterator[bytes]:
    """The keys of counters per token or per captured segment, each once."""
    prefixes = tuple(
        keyspace.limit_prefix(identity, limit.name).encode()
        for limit in limits
        if limit.subject.kind is not SubjectKind.IDENTITY
    )
    if not prefixes:
        return
    # A key may come up twice; deleted twice, it would forget calls that count since.
    seen: set[bytes] = set()
    pattern = f"{keyspace.limit_prefix(identity, '')[:-1]}*"
    for key in client.scan_iter(pattern, count=SCANNED):
        if key.startswith(prefixes) and key not in seen:
            seen.add(key)
            yield key


def _packed_slots(layout: Layout, names: set[str]) -> bytes:
    """For `reset_limits.lua`: place and length of the numbers, place and length of the ring."""
    return b"".join(
        struct.pack(
            "<IIII",
            slot.index * DOUBLE,
            len(COUNTS[slot.kind].numbers) * DOUBLE,
            slot.offset,
            slot.capacity * DOUBLE,
        )
        for slot in layout.slots
        if slot.name in names
    )


def _checked(said: list[bytes] | bytes | int | None) -> tuple[bytes, bytes]:
    if said is None:
        raise OperationError(
            "vault-changing",
            "the prefixes are being changed, or are others since this began",
            help="run it again; while they are changed nobody can act",
        )
    if isinstance(said, bytes):
        raise OperationError(
            "unknown-identity",
            f"`{said.decode()}` has no state; nothing was reset",
            help="load the policy again: limits then begin at 0",
        )
    if isinstance(said, int):
        raise OperationError(
            "activation-conflict",
            "another policy was loaded while the limits were reset; some counters were left",
            help="run it again",
        )
    bound_us, event = said
    return bound_us, event
