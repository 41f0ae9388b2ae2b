"""Return units of budgets that the shards of a cluster have not used."""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keyleash.doubles import DOUBLE
from keyleash.errors import OperationError
from keyleash.limits import Budget, SlotKind, SubjectKind
from keyleash.operations import operation
from keyleash.operations.types import IdentityName
from keyleash.operator.tokens.issue import active_identity
from keyleash.operator.tokens.list import TokenState, list_tokens
from keyleash.policy import Identity
from keyleash.policy.parse import active_policy
from keyleash.results import Change, Result
from keyleash.store.identities import require_active
from keyleash.store.keyspace import account as account_name
from keyleash.store.leases import leased_layout
from keyleash.store.placement import is_shard_tag
from keyleash.store.scripts import COLLECT_CREDIT, RETURN_CREDIT
from keyleash.store.shards import node_effects, read_epochs, read_tags, run_at_shards
from keyleash.store.state import Layout, token_layout
from keyleash.store.states import counter_key, read_packed_layout, state_key
from keyleash.store.store import Store
from keyleash.store.wire import reading_reply


@dataclass(frozen=True, slots=True)
class ReturnedCredit(Result):
    """The units of one budget that were returned.

    Attributes:
        limit: The name of the budget.
        units: The units; of a limit per token, those of all tokens.
    """

    identity: str
    limit: str
    units: int


@dataclass(frozen=True, slots=True)
class CreditCollection(Change):
    """The result of `collect_credit`. A node that was not reached keeps its units.

    Attributes:
        returned: The budgets of which units were returned, or none.
    """

    returned: tuple[ReturnedCredit, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return self.with_nodes({"returned": [item.to_dict() for item in self.returned]})


@dataclass(frozen=True, slots=True)
class _Budget:
    """A budget of an identity, or of one of its tokens.

    Attributes:
        place: Its place among the limits that are leased together.
        key: The key at the home that counts it.
        offset: The place of its numbers there.
    """

    name: str
    place: int
    key: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class _Account:
    """The budgets that are leased under one name, to an identity or to one of its tokens.

    Attributes:
        packed_layout: The layout of the state of the identity.
        layout: The layout of the leased limits.
    """

    identity: str
    packed_layout: bytes
    layout: Layout
    budgets: tuple[_Budget, ...]


@operation("budget collect")
def collect_credit(store: Store, identity: IdentityName | None = None) -> CreditCollection:
    """Return units of budgets that the nodes of a cluster hold and have not used.

    Those of budgets per token are the units of all live tokens.

    The units are taken first, and all replicas have that before they are returned; so a failure in
    between loses units until the window ends, and none is used twice.

    Args:
        identity: A name in the active policy; all of them if None.

    Raises:
        OperationError (no-cluster): the server is no cluster.
        OperationError (no-policy): no policy is active.
        OperationError (unknown-identity): the active policy has no such identity.
    """
    if store.cluster is None:
        raise OperationError(
            "no-cluster",
            "the server is no cluster: its budgets have no unused units elsewhere",
            help="nothing needs to be collected",
        )
    accounts = {name: item for name, item in _read_accounts(store, identity) if item.budgets}
    epochs = read_epochs(store, [*{item.identity for item in accounts.values()}])
    shards = [
        (name, tag)
        for name, tags in read_tags(store, accounts).items()
        for tag in filter(is_shard_tag, tags)
    ]
    calls = [(tag, _words(name, accounts[name])) for name, tag in shards]
    replies = run_at_shards(store, COLLECT_CREDIT, calls, replicated=True)
    taken: dict[str, list[bytes | str]] = defaultdict(list)
    for (name, tag), found in zip(shards, replies, strict=True):
        if found.reply:
            taken[name] += [tag, *found.reply]
    returned: Counter[tuple[str, str]] = Counter()
    for name, words in taken.items():
        of = accounts[name]
        for budget, units in zip(
            of.budgets, _return(store, name, of, epochs[of.identity], words), strict=False
        ):
            returned[of.identity, budget.name] += units
    found_units = tuple(ReturnedCredit(*key, units) for key, units in returned.items())
    return CreditCollection(found_units, nodes=node_effects(replies))


def _read_accounts(store: Store, identity: str | None) -> Iterator[tuple[str, _Account]]:
    """Yield the names under which limits are leased, and their budgets."""
    if identity is None:
        policy = active_policy(require_active(store).document)
        identities: Iterable[Identity] = policy.identities
    else:
        identities = [active_identity(store, identity)]
    for item in identities:
        name, packed = item.name, read_packed_layout(store, item.name) or b"[]"
        layout = Layout.from_json(packed)
        state = state_key(store.keys, name)
        budgets = [
            _Budget(slot.name, place, state, slot.index * DOUBLE)
            for place, slot in enumerate(layout.slots)
            if slot.kind is SlotKind.BUDGET
        ]
        yield name, _Account(name, packed, layout, tuple(budgets))
        limits = [limit for limit in item.limits if limit.subject.kind is SubjectKind.TOKEN]
        if not any(isinstance(limit, Budget) for limit in limits):
            continue
        for token in list_tokens(store, name):
            if token.state is TokenState.LIVE:
                of_token = tuple(
                    _Budget(
                        limit.name, place, counter_key(store.keys, name, limit, token.id.encode())
                    )
                    for place, limit in enumerate(limits)
                    if isinstance(limit, Budget)
                )
                found = _Account(name, packed, token_layout(limits), of_token)
                yield account_name(name, token.id), found


def _words(name: str, account: _Account) -> tuple[str | int | bytes, ...]:
    places = b"".join(struct.pack("<I", budget.place) for budget in account.budgets)
    return account.identity, name, leased_layout(account.layout), places


def _return(
    store: Store, name: str, account: _Account, epoch: bytes, words: Sequence[bytes | str]
) -> Sequence[int]:
    """Return units to the home; none if a policy was activated or limits reset meanwhile."""
    budgets = account.budgets
    places = b"".join(struct.pack("<II", budget.place, budget.offset) for budget in budgets)
    about = (store.actor, account.identity, name, account.packed_layout, epoch, places)
    reply = store.run(RETURN_CREDIT, *about, *(budget.key for budget in budgets), *words)
    if reply == 0:
        return []
    with reading_reply("EVAL"):
        return [int(units) for units in reply]
