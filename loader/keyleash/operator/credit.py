"""Return units of budgets that the shards of a cluster have not used."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyleash.doubles import DOUBLE
from keyleash.errors import OperationError
from keyleash.limits import SlotKind
from keyleash.operator.tokens import active_identity
from keyleash.policy import parse_policy
from keyleash.results import Change, NodeEffect, Result
from keyleash.store.identities import require_active
from keyleash.store.leases import leased_layout
from keyleash.store.scripts import COLLECT_CREDIT, RETURN_CREDIT
from keyleash.store.shards import ShardReply, read_shards, run_at_shards
from keyleash.store.state import Layout
from keyleash.store.states import read_packed_layout
from keyleash.store.store import Store
from keyleash.store.wire import reading_reply


@dataclass(frozen=True, slots=True)
class ReturnedCredit(Result):
    """
    The units of one budget that were returned.

    Attributes:
        identity: The identity.
        limit: The name of the budget.
        units: The units.
    """

    identity: str
    limit: str
    units: int


@dataclass(frozen=True, slots=True)
class CreditCollection(Change):
    """
    The result of `collect_credit`. A node that was not reached keeps its units.

    Attributes:
        returned: The budgets of which units were returned, or none.
    """

    returned: tuple[ReturnedCredit, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return self.with_nodes({"returned": [item.to_dict() for item in self.returned]})


@dataclass(frozen=True, slots=True)
class _Budgets:
    """The budgets of one identity, by their place among its leased limits and in its state."""

    packed_layout: bytes
    layout: Layout

    @property
    def slots(self) -> Sequence[tuple[int, int, str]]:
        return [
            (place, slot.index * DOUBLE, slot.name)
            for place, slot in enumerate(self.layout.slots)
            if slot.kind is SlotKind.BUDGET
        ]


def collect_credit(store: Store, identity: str | None = None) -> CreditCollection:
    """
    Take unused units of budgets from all shards and return them to their budgets.

    The units are taken first, and all replicas have that before they are returned; so a failure in
    between loses units until the window ends, and none is used twice.

    Args:
        identity: A name in the active policy; all of them if None.

    Raises:
        OperationError (no-cluster): It is one server, which leases nothing.
        OperationError (no-policy): No policy is active.
        OperationError (unknown-identity): The active policy has no such identity.
    """
    if store.nodes is None:
        raise OperationError(
            "no-cluster",
            "the server is no cluster: its budgets have no unused units elsewhere",
            help="nothing needs to be collected",
        )
    budgets = _read_budgets(store, identity)
    shards = [item for item in read_shards(store, list(budgets)) if budgets[item.identity].slots]
    calls = [(item.tag, (item.identity, *_words(budgets[item.identity]))) for item in shards]
    replies = run_at_shards(store, COLLECT_CREDIT, calls, replicated=True)
    taken: dict[str, list[bytes | str]] = defaultdict(list)
    for shard, found in zip(shards, replies, strict=True):
        if found.reply:
            taken[shard.identity] += [shard.tag, *found.reply]
    returned = [
        item for name, words in taken.items() for item in _return(store, name, budgets[name], words)
    ]
    return CreditCollection(tuple(returned), nodes=_effects(replies))


def _read_budgets(store: Store, identity: str | None) -> Mapping[str, _Budgets]:
    if identity is None:
        policy = parse_policy(require_active(store).document, file="<active policy>", commands=None)
        names = [item.name for item in policy.identities]
    else:
        names = [active_identity(store, identity).name]
    packed = {name: read_packed_layout(store, name) or b"[]" for name in names}
    return {name: _Budgets(text, Layout.from_json(text)) for name, text in packed.items()}


def _words(budgets: _Budgets) -> tuple[int | bytes, ...]:
    places = b"".join(struct.pack("<I", place) for place, _, _ in budgets.slots)
    return leased_layout(budgets.layout), places


def _return(
    store: Store, name: str, budgets: _Budgets, words: Sequence[bytes | str]
) -> list[ReturnedCredit]:
    """Return units to the home; none if another policy was activated meanwhile."""
    places = b"".join(struct.pack("<II", place, offset) for place, offset, _ in budgets.slots)
    about = (store.actor, name, budgets.packed_layout, places)
    reply = store.run(RETURN_CREDIT, *about, *words)
    if reply == 0:
        return []
    with reading_reply("EVAL"):
        return [
            ReturnedCredit(name, limit, int(units))
            for (_, _, limit), units in zip(budgets.slots, reply, strict=True)
        ]


def _effects(replies: Sequence[ShardReply]) -> tuple[NodeEffect, ...]:
    reasons: dict[str, str] = {}
    for found in replies:
        reasons[found.node] = reasons.get(found.node) or found.reason
    return tuple(NodeEffect(node, reason=reason) for node, reason in sorted(reasons.items()))
