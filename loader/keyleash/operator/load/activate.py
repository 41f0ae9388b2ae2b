"""Activate a policy atomically, and verify the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from keyleash.errors import OperationError, PlanOutdatedError, Problem, RemovalError
from keyleash.operator.load.compile import PreparedPolicy
from keyleash.operator.load.load_plan import LoadPlan
from keyleash.operator.load.preview import (
    IdentityChange,
    LoadDiff,
    StateChange,
    activation_words,
    diff_with_server,
    is_of,
    layouts_after,
    record_of,
    summary_of,
)
from keyleash.policy.problems import some
from keyleash.policy.scripts import with_texts
from keyleash.results import Change, NodeEffect, Progress
from keyleash.store.guards import (
    MANY,
    load_on_nodes,
    load_scripts,
    owners_not_loaded,
    record_sources,
    retire_sources,
    step_lua_gc,
)
from keyleash.store.records import ActivePolicy, read_active
from keyleash.store.scripts import ACTIVATE
from keyleash.store.server_check import require_supported
from keyleash.store.shards import expire_leases, store_mac_key, with_reasons
from keyleash.store.snapshots import read_snapshots
from keyleash.store.staging import LoadStage, StateMove
from keyleash.store.store import Store
from keyleash.text import json_object


@dataclass(frozen=True, slots=True)
class LoadResult(Change):
    """The result of a load.

    Attributes:
        changed: False if this policy was active already; then nothing was written.
        generation: The generation of the active policy.
        digest: The digest of the active policy.
        identities: Its identities, in its order.
        removed: Identities that this load deactivated.
        warnings: Warnings about this policy on this server, in file order.
        plan: The plan that was applied and verified; None if there was none.
    """

    changed: bool
    generation: int
    digest: str
    identities: tuple[str, ...]
    removed: tuple[str, ...]
    warnings: tuple[Problem, ...] = ()
    plan: LoadPlan | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `keyleash load --json` prints it, without the server."""
        first = ("changed", "generation", "digest", "identities", "removed")
        return self.with_nodes(
            {
                **json_object(self, *first),
                "verified": self.plan is not None,
                **json_object(self, "plan", "warnings"),
            }
        )


def activate_policy(
    store: Store,
    prepared: PreparedPolicy,
    *,
    expected: int | None = None,
    plan: str = "",
    report: Progress | None = None,
    allow_removal: bool = False,
) -> LoadResult:
    """Activate a prepared policy atomically.

    Limits keep their counts, by name; suspended identities remain suspended.

    Args:
        expected: The generation that must be active, 0 for none; not checked if None.
        plan: The plan as JSON, for the control stream.
        report: Called with the number of loaded guards and the total.
        allow_removal: Whether identities of the active policy may be missing from this one.

    Raises:
        RemovalError: The load would remove identities, and *allow_removal* is false.
        OperationError (unsayable-pattern): ACL rules cannot hold a pattern.
        OperationError (activation-conflict): Another policy was activated meanwhile; nothing was
            activated.
        OperationError (digest-mismatch): The server computes other digests; nothing was activated.
    """
    require_supported(store.client, cluster=store.cluster is not None)
    guards, digest = prepared.guards, prepared.digest
    names = tuple(guard.identity for guard in guards)
    if prepared.shards is not None:
        store_mac_key(store, prepared.shards.master_key)
    packed: dict[str, bytes] = {}
    load_scripts(store, guards, report, packed)
    failures = load_on_nodes(store, guards)
    found = diff_with_server(store, prepared)
    active, changes = found.active, found.changes
    generation = active.generation if active else 0
    if expected is not None and generation != expected:
        raise PlanOutdatedError(
            "activation-conflict",
            "another policy was activated since the plan was made",
            help="check `keyleash status`, then make a new plan",
        )
    if active and found.is_active:
        # Leases are expired again, because an earlier load may not have reached all nodes.
        nodes = _effects(store, names, failures)
        return LoadResult(False, generation, digest, names, (), prepared.warnings, nodes=nodes)
    if found.removed and not allow_removal:
        raise RemovalError(prepared.file, found.removed)
    record_sources(store, found.unrecorded, packed)
    stage = LoadStage(store)
    try:
        _fill(stage, prepared, found, store.actor)
        header = (generation, stage.load, store.actor, digest, summary_of(changes), plan)
        generation = _activate(store, header, changes, stage)
    finally:
        stage.discard()
    retire_sources(store, guards, found.removed)
    nodes = _effects(store, (*names, *found.removed), failures)
    removed, warnings = found.removed, prepared.warnings
    return LoadResult(True, generation, digest, names, removed, warnings, nodes=nodes)


def _effects(
    store: Store, identities: Sequence[str], failures: Mapping[str, str]
) -> tuple[NodeEffect, ...] | None:
    """Expire the leases of a cluster, and wait for replicas; return the effect at all nodes.

    Args:
        identities: The identities of the new policy and of the one before.
        failures: Why scripts could not be loaded into a node, by its name.
    """
    expired = expire_leases(store, identities)
    if store.cluster is None or expired is None:
        return expired
    reasons = {name: failures.get(name, "") for name in map(str, store.cluster.nodes)}
    return with_reasons(expired, reasons)


def _fill(stage: LoadStage, prepared: PreparedPolicy, found: LoadDiff, actor: str) -> None:
    """Stage the records and states of the new policy."""
    generation = found.active.generation if found.active else 0
    before = _policy_before(found.active, prepared.digest)
    document = with_texts(prepared.document, prepared.policy)
    policy = ActivePolicy(
        generation + 1, prepared.digest, document, actor, 0, before, " ".join(prepared.modules)
    )
    stage.put_policy(policy, layouts_after(found.layouts, found.changes))
    changed = [
        change.guard
        for change in found.changes
        if change.guard and change.kind is not StateChange.UNCHANGED
    ]
    stage.put_records(
        {guard.identity: record_of(guard, generation + 1, prepared.commands) for guard in changed}
    )
    stage.put_states(
        [
            StateMove(
                change.identity,
                change.moves.packed,
                change.moves.rings,
                found.snapshots[change.identity].size,
            )
            for change in found.changes
            if change.kind is StateChange.MOVED and change.moves is not None
        ]
    )


def _policy_before(active: ActivePolicy | None, digest: str) -> str:
    """Return the digest of the policy that a rollback activates; never the policy itself."""
    if active is None:
        return ""
    return active.before if active.digest == digest else active.digest


def _activate(
    store: Store, header: tuple[int | str, ...], changes: Sequence[IdentityChange], stage: LoadStage
) -> int:
    words = activation_words(changes, stage.seen)
    stage.keep_records()
    if sum(change.kind is not StateChange.UNCHANGED for change in changes) >= MANY:
        step_lua_gc(store)
    # Loaded first, so that the server compiles it before the activation.
    store.load(ACTIVATE)
    try:
        return int(store.run_loaded(ACTIVATE, *header, *words))
    except ResponseError as error:
        if not str(error).startswith("LEASH ACTIVATION_"):
            raise
        raise PlanOutdatedError(
            "activation-conflict",
            "another policy was activated while this one was loaded"
            if "CONFLICT" in str(error)
            else "the staged records of this load expired or were deleted before the activation",
            help="check `keyleash status`, then load again",
        ) from None


def verify_activation(store: Store, prepared: PreparedPolicy, generation: int) -> None:
    """Read back and compare the records, states and scripts of *generation*.

    Raises:
        OperationError (activation-conflict): Another policy was activated since.
        OperationError (not-verified): Something differs from what was activated.
    """
    active = read_active(store)
    if active is not None and active.generation > generation:
        raise OperationError(
            "activation-conflict",
            f"generation {generation} was activated, then another policy by `{active.actor}`",
            help="see `keyleash policy history`",
        )
    findings: list[str] = []
    if active is None or (active.generation, active.digest) != (generation, prepared.digest):
        findings.append("the record of the active policy")
    findings += _wrong_guards(store, prepared, generation)
    findings += _missing_scripts(store, prepared)
    if findings:
        raise OperationError(
            "not-verified",
            f"generation {generation} was activated, but the server does not have it as activated:"
            f" {some(findings, 5)}",
            help="load the policy again; if that does not help, find out who else writes these"
            " keys",
        )


def _wrong_guards(store: Store, prepared: PreparedPolicy, generation: int) -> Iterator[str]:
    names = [guard.identity for guard in prepared.guards]
    snapshots = read_snapshots(store, names)
    for guard in prepared.guards:
        found = snapshots[guard.identity]
        is_right = is_of(found, guard, prepared.commands)
        if not is_right or found.record is None or found.record.generation != generation:
            yield f"the guard record or the state of `{guard.identity}`"
        elif not found.sources >= {*guard.scripts}:
            yield f"the stored scripts of `{guard.identity}`"


def _missing_scripts(store: Store, prepared: PreparedPolicy) -> Iterator[str]:
    owners = {digest: guard.identity for guard in prepared.guards for digest in guard.scripts}
    yield from (f"the scripts of `{name}`" for name in owners_not_loaded(store, owners))
