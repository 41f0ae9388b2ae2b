"""Reset the counts of an identity's rates and budgets."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keyleash.doubles import DOUBLE
from keyleash.errors import OperationError
from keyleash.limits import COUNTS, Limit, SubjectKind
from keyleash.operations import operation
from keyleash.operations.types import IdentityName, LimitName, RecordedReason
from keyleash.operator.tokens.issue import active_identity
from keyleash.policy import Identity
from keyleash.policy.problems import did_you_mean, listing
from keyleash.results import Change, Instant
from keyleash.store.scripts import RESET_LIMITS
from keyleash.store.shards import expire_leases, with_reasons
from keyleash.store.state import Layout, check_reason
from keyleash.store.states import delete_counters, find_counters, read_packed_layout
from keyleash.store.store import Store, batches
from keyleash.text import json_object

PIECE = 5000
"""Counters deleted per script, which blocks the server."""
ROUNDS = 3
"""Attempts while policies are loaded."""


@dataclass(frozen=True, slots=True)
class LimitReset(Change):
    """The result of a reset.

    Attributes:
        effective_us: Server time of the reset, Unix µs: later calls count from 0.
        event: The id of the control event.
        limits: The names of the reset limits, in the order of the policy.
        counters: The number of deleted counters per token or per captured segment.
        effective_at: `effective_us` as a `datetime`.
    """

    effective_us: int
    event: str
    identity: str
    limits: tuple[str, ...]
    counters: int
    effective_at = Instant[datetime]("effective_us")

    def to_dict(self) -> dict[str, Any]:
        """Return the reset as `--json` prints it."""
        names = ("identity", "limits", "counters", "bound_at=effective_us", "event")
        return self.with_nodes(json_object(self, *names))


@operation("limits reset")
def reset_limits(
    store: Store, identity: IdentityName, limit: LimitName | None = None, *, reason: RecordedReason
) -> LimitReset:
    """Set what a limit has counted to 0.

    Limits `per: token` or per captured segment are reset for all tokens or segments. Their counters
    are found by SCAN; up to `PIECE` are deleted in the same script, and others in further scripts.
    Counters that start after the search remain. It also runs on a server whose memory is full.

    Args:
        identity: A name in the active policy.
        limit: A limit such as `rate.writes`; all of them if None.
        reason: The reason, for the control stream: up to 128 bytes, without a token.

    Raises:
        OperationError (no-policy): no policy is active.
        OperationError (unknown-identity): the active policy has no such identity.
        OperationError (unknown-limit): the identity has no such limit.
        OperationError (activation-conflict): policies were loaded meanwhile; nothing was changed.
        ValueError: *reason* is blank or too long.
    """
    check_reason("reason", reason)
    for _ in range(ROUNDS):
        found = _reset(store, identity, limit, reason)
        if found is not None:
            return found
    raise OperationError(
        "activation-conflict",
        "policies were loaded repeatedly; nothing was reset",
        help="try again",
    )


def _reset(store: Store, identity: str, limit: str | None, reason: str) -> LimitReset | None:
    """Return None if another policy was activated between the plan and the reset."""
    layout = read_packed_layout(store, identity) or b"[]"
    limits = _chosen(active_identity(store, identity), limit)
    names = [item.name for item in limits]
    counters = list(find_counters(store, identity, limits))
    first, *pieces = list(batches(counters, PIECE)) or [()]
    known = Layout.from_json(layout)
    slots = _packed_slots(known, names)
    about = (store.actor, identity, reason)
    reply = store.run(RESET_LIMITS, *about, layout, ",".join(names), slots, len(counters), *first)
    if reply == 0:
        return None
    effective_us, event = _checked(reply)
    for piece in pieces:
        layout = read_packed_layout(store, identity) or b"[]"
        _checked(store.run(RESET_LIMITS, *about, layout, "", b"", 0, *piece))
    # What shards have is of before: it was charged to counts that are cleared.
    leased = [place for place, slot in enumerate(known.slots) if slot.name in names]
    tokens = any(item.subject.kind is SubjectKind.TOKEN for item in limits)
    nodes = expire_leases(store, [identity], limits=leased, tokens=tokens)
    deleted, reasons = delete_counters(store, identity, limits)
    count = len(counters) + deleted
    return LimitReset(
        int(effective_us),
        event.decode(),
        identity,
        tuple(names),
        count,
        nodes=None if nodes is None else with_reasons(nodes, reasons),
    )


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


def _packed_slots(layout: Layout, names: Sequence[str]) -> bytes:
    """Return offset and length of numbers and rings, for `reset_limits.lua`."""
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


def _checked(reply: list[bytes] | bytes | int) -> tuple[bytes, bytes]:
    if isinstance(reply, bytes):
        raise OperationError(
            "unknown-identity",
            f"`{reply.decode()}` has no state; nothing was reset",
            help="load the policy again: limits then start at 0",
        )
    if isinstance(reply, int):
        raise OperationError(
            "activation-conflict",
            "another policy was loaded during the reset; some counters remain",
            help="run it again",
        )
    effective_us, event = reply
    return effective_us, event
