"""Seal, rotate and unseal a server's key prefixes, and adopt and release keys.

A change of prefixes has five phases:

    plan      write the new prefixes to the record, before any key has them
    prepare   compile, load and stage guards with the new prefixes; agents continue
    switch    one script: activate the new guards, which deny every agent as suspended
    move      rename every key, in pieces
    end       one script: resume all identities that were not suspended before

No agent sees keys in two places: before the switch all have the old prefix, and agents are
suspended until all have the new one. On a cluster the prefixes are those of all nodes; leases end
between switch and move. An interrupted change continues when it is requested again.
"""

from __future__ import annotations

import secrets
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from redis.exceptions import ResponseError

from keyleash.errors import OperationError
from keyleash.fence.apply import refreshed_users
from keyleash.operations import Runner, operation
from keyleash.operator.load.activate import activate_policy
from keyleash.operator.load.compile import PreparedPolicy, prepare_active
from keyleash.operator.load.preview import record_of
from keyleash.policy import Pattern
from keyleash.results import Progress, Result
from keyleash.store.clients import AnyClient
from keyleash.store.connect import connect_nodes
from keyleash.store.deployment import Cluster
from keyleash.store.fences import mark_forgeable, read_records
from keyleash.store.guards import load_on_nodes, load_scripts, record_sources
from keyleash.store.identities import known_identities, require_active
from keyleash.store.keyspace import OPERATORS, Keyspace
from keyleash.store.moves import (
    NewName,
    begin_change,
    delete_old_sources,
    end_change,
    find_conflicts,
    move_keys,
    rename_leases,
    switch_prefixes,
    with_leases,
)
from keyleash.store.placement import is_shard_tag
from keyleash.store.prefixes import ChangeKind, PrefixChange, read_seal
from keyleash.store.shards import expire_leases, move_shards, read_mac_key, read_tags
from keyleash.store.staging import LoadStage
from keyleash.store.store import Store
from keyleash.vault.names import (
    changed_names,
    conflict,
    into_vault,
    logical_names,
    out_of_vault,
    patterns_of,
)

PREFIX_BYTES = 16


@dataclass(frozen=True, slots=True)
class ChangeResult(Result):
    """
    The result of a change.

    Attributes:
        moved: The number of renamed keys.
        generation: The generation of the policy, which is the same with other guards.
        resumed: Whether an earlier change was continued.
    """

    moved: int
    generation: int
    resumed: bool


@operation(through=Runner.change_prefixes)
def seal(
    store: Store,
    *,
    adopt: Sequence[str] = (),
    nodes: Sequence[AnyClient | str] = (),
    progress: Progress | None = None,
) -> ChangeResult:
    """Move all keys of keyleash, and the keys that match *adopt*, under random prefixes.

    Raises:
        PolicyError: a pattern is invalid.
        OperationError (no-policy): no policy is active.
    """
    return change_prefixes(store, ChangeKind.SEAL, nodes, adopt=adopt, progress=progress)


@operation(through=Runner.change_prefixes)
def rotate(
    store: Store, *, nodes: Sequence[AnyClient | str] = (), progress: Progress | None = None
) -> ChangeResult:
    """Replace the prefixes by new ones."""
    return change_prefixes(store, ChangeKind.ROTATE, nodes, progress=progress)


@operation(through=Runner.change_prefixes)
def unseal(
    store: Store, *, nodes: Sequence[AnyClient | str] = (), progress: Progress | None = None
) -> ChangeResult:
    """Move all keys back to their names."""
    return change_prefixes(store, ChangeKind.UNSEAL, nodes, progress=progress)


def change_prefixes(
    store: Store,
    kind: ChangeKind,
    nodes: Sequence[AnyClient | str] = (),
    *,
    adopt: Sequence[str] = (),
    progress: Progress | None = None,
) -> ChangeResult:
    """
    Seal a server, replace the prefixes of a sealed one, or remove them.

    Args:
        store: The server.
        kind: `SEAL` moves the control keys, and all keys of agents from then on, under random
            prefixes; `ROTATE` replaces both; `UNSEAL` gives all keys their logical names.
        nodes: Clients or URLs of further servers, such as replicas, whose ACL users are updated as
            well.
        adopt: Patterns of existing keys to move into the vault.
        progress: Called with (0, None) before the first write, or immediately if the change was
            begun before; an interruption after that may leave agents suspended.

    Raises:
        OperationError (vault): The server is sealed or not, or another change was begun.
        OperationError (no-policy): No policy is active.
        OperationError (activation-conflict): A policy was loaded at the same time; nothing was
            changed.
        OperationError (node-unreachable): A node of a cluster does not answer. It is named.
        VaultConflictError: Two keys have the same new name. `UNSEAL` changed nothing; otherwise
            the other keys were moved.
    """
    others = connect_nodes(store.client, nodes)
    report = progress or (lambda _done, _total: None)
    change, resumed = _planned(store, kind, adopt, report)
    if not change.is_switched:
        _load_unchanged(store.with_keys(change.old))
    active = require_active(store.with_keys(change.new if change.is_switched else change.old))
    prepared = prepare_active(
        store.with_keys(change.new), active.document, mac_key=_mac_key(store, change)
    )
    # An interrupted change may have left them in either place.
    records = {
        **read_records(store.with_keys(change.old)),
        **read_records(store.with_keys(change.new)),
    }
    with refreshed_users(store.with_keys(change.new), others, prepared.guards, records):
        if not change.is_switched:
            _switch(store, change, prepared)
        if store.cluster is not None:
            _move_shards(store, store.cluster, change)
        moved = _move(store, change, report)
        end_change(store, change)
    mark_forgeable(store.with_keys(change.new), records)
    generation = require_active(store.with_keys(change.new)).generation
    return ChangeResult(moved, generation, resumed)


def _planned(
    store: Store, kind: ChangeKind, adopt: Sequence[str], report: Progress
) -> tuple[PrefixChange, bool]:
    """Return the change to carry out, and whether it was begun before."""
    record = read_seal(store.client, store.keys.tag)
    if record.change is not None:
        report(0, None)
        if record.change.kind is not kind:
            raise OperationError(
                "vault",
                f"`keyleash vault {record.change.kind.value}` is unfinished",
                help="run that again first: it continues where it was interrupted",
            )
        # New patterns are added.
        patterns = tuple(dict.fromkeys((*record.change.adopt, *adopt)))
        return replace(record.change, adopt=patterns), True
    old = record.keyspace
    if kind is not ChangeKind.SEAL:
        _require_sealed(old)
    elif old.vault:
        raise OperationError(
            "vault",
            "the server is sealed already",
            help="`keyleash vault rotate` replaces its prefixes, `vault adopt` moves keys in",
        )
    require_active(store.with_keys(old))
    control, vault = (f"{secrets.token_hex(PREFIX_BYTES)}:" for _ in range(2))
    new = Keyspace(tag=old.tag)
    if kind is not ChangeKind.UNSEAL:
        new = Keyspace(control, vault, old.tag)
    change = PrefixChange(kind, old, new, adopt=tuple(adopt))
    names = changed_names(change, patterns_of(adopt, old))
    if kind is ChangeKind.UNSEAL and (taken := _conflicts(store, names)):
        raise conflict(logical_names(taken, old))
    if begin_change(store, change, lambda: report(0, None)):
        return change, False
    raise OperationError(
        "vault", "another change of the vault has begun", help="wait until it is finished"
    )


def _require_sealed(keyspace: Keyspace) -> None:
    if not keyspace.vault:
        raise OperationError(
            "vault", "the server is not sealed", help="see `keyleash vault seal --help`"
        )


def _load_unchanged(store: Store) -> None:
    # States are taken over unchanged, so they must have the layout of the new guards.
    active = require_active(store)
    prepared = prepare_active(store, active.document)
    activate_policy(
        store,
        prepared,
        # It is the active policy itself.
        allow_removal=True,
    )


def _switch(store: Store, change: PrefixChange, prepared: PreparedPolicy) -> None:
    """Activate the guards with the new prefixes."""
    active = require_active(store.with_keys(change.old))
    load_scripts(store, prepared.guards)
    _require_reached(load_on_nodes(store, prepared.guards), "no key was moved")
    record_sources(store.with_keys(change.new), prepared.guards)
    stage = LoadStage(store.with_keys(change.new))
    try:
        records = {
            guard.identity: record_of(guard, active.generation + 1, prepared.commands)
            for guard in prepared.guards
        }
        stage.put_records(records)
        stage.keep_records()
        stamps = {guard.identity: struct.pack("<d", guard.stamp) for guard in prepared.guards}
        switch_prefixes(store, change, active.generation, stage.load, stamps)
    except ResponseError as error:
        if str(error).startswith("LEASH ACTIVATION_"):
            raise OperationError(
                "activation-conflict",
                "another policy was activated at the same time; no prefix was changed",
                help=f"run `keyleash vault {change.kind.value}` again",
            ) from None
        raise
    finally:
        stage.discard()


def _mac_key(store: Store, change: PrefixChange) -> bytes | None:
    """Return the key of a cluster's leases, which the change may have moved; None on one server."""
    if store.cluster is None:
        return None
    return read_mac_key(store.with_keys(change.old)) or read_mac_key(store.with_keys(change.new))


def _require_reached(reasons: Mapping[str, str], effect: str) -> None:
    """Raise an error if a node of a cluster was not reached: reasons by name."""
    for node, reason in reasons.items():
        raise OperationError(
            "node-unreachable",
            f"cannot reach the node `{node}` of the cluster: {reason}; {effect}",
            help="run it again when all nodes answer: it continues",
        )


def _move_shards(store: Store, nodes: Cluster, change: PrefixChange) -> None:
    """End all leases, then move the keys of identities at the shards of a cluster.

    Old guards check calls until their leases end, and ask the home then, which denies them. New
    guards get no lease until the change ends.
    """
    old, new = store.with_keys(change.old), store.with_keys(change.new)
    names = with_leases(old, known_identities(new))
    owners = with_leases(old, [*names, OPERATORS])
    shards: dict[str, list[str]] = defaultdict(list)
    for name, tags in read_tags(old, owners).items():
        for tag in filter(is_shard_tag, tags):
            shards[tag].append(name)
    effect = "agents are suspended until the change is finished"
    expired = expire_leases(old, names) or ()
    _require_reached({item.node: item.reason for item in expired if item.reason}, effect)
    _require_reached(move_shards(old, change.new, shards), effect)
    # Last, since they list the shards if this is repeated.
    rename_leases(store, change, owners)
    nodes.read()


def _conflicts(store: Store, names: NewName) -> tuple[bytes, ...]:
    return tuple(key for part in store.primaries() for key in find_conflicts(part, names))


def _move_once(
    store: Store, names: NewName, report: Progress | None
) -> tuple[int, tuple[bytes, ...]]:
    """Move the keys of all nodes; return their number, and those whose new names are taken."""
    found = [move_keys(part, names, report) for part in store.primaries()]
    return sum(count for count, _ in found), tuple(key for _, taken in found for key in taken)


def _move(store: Store, change: PrefixChange, report: Progress) -> int:
    names = changed_names(change, patterns_of(change.adopt, change.old))
    moved = 0
    while True:
        # Until nothing is left: a tool may have written under the old prefix after the switch.
        count, conflicts = _move_once(store, names, report)
        moved += count
        if conflicts:
            raise conflict(logical_names(conflicts, change.old, change.new))
        if not count:
            break
    delete_old_sources(store, change)
    return moved


@operation()
def adopt_keys(store: Store, *patterns: str, progress: Progress | None = None) -> int:
    """Move keys that match into the vault; return their number.

    Each key moves atomically, with its expiry. Repeat it after an interruption.
    """
    return _move_matching(store, patterns, into_vault, progress)


@operation()
def release_keys(store: Store, *patterns: str, progress: Progress | None = None) -> int:
    """Move keys that match out of the vault; return their number."""
    return _move_matching(store, patterns, out_of_vault, progress)


def _move_matching(
    store: Store,
    patterns: Sequence[str],
    names: Callable[[Keyspace, Sequence[Pattern]], NewName],
    report: Progress | None,
) -> int:
    keyspace = store.keys
    _require_sealed(keyspace)
    moved, conflicts = _move_once(store, names(keyspace, patterns_of(patterns, keyspace)), report)
    if conflicts:
        raise conflict(logical_names(conflicts, keyspace))
    return moved
