"""Plan a load, and apply it with consent to what it widens and removes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from keyleash.errors import OperationError, RemovalError, no_policy
from keyleash.fence import read_records
from keyleash.operator.load.activate import LoadResult, activate_policy, verify_activation
from keyleash.operator.load.compile import prepare_policy
from keyleash.operator.load.load_plan import LoadPlan
from keyleash.operator.load.plan import preview_load, summary_of_plan
from keyleash.policy.problems import listing
from keyleash.results import Progress
from keyleash.store.connect import connect_nodes
from keyleash.store.identities import require_active
from keyleash.store.records import ActivePolicy, read_history
from keyleash.store.server_check import Client
from keyleash.store.store import Store
from keyleash.text import clock_time, printable, short_digest

MIN_DIGITS = 6
"""Minimum length of the digest prefix that selects a stored policy."""


def plan_load(
    store: Store,
    document: str,
    *,
    file: str = "<policy>",
    allow_eviction: bool = False,
    allow_unvalidated_restore: bool = False,
    progress: Progress | None = None,
) -> LoadPlan:
    """
    Compile a policy and compare it with the server; nothing is written.

    Args:
        progress: Called with the number of compiled guards and the total.
        Others as for `load_policy`, whose errors it raises.
    """
    prepared = prepare_policy(
        store,
        document,
        file=file,
        allow_eviction=allow_eviction,
        allow_unvalidated_restore=allow_unvalidated_restore,
        report=progress,
    )
    return LoadPlan(prepared, preview_load(store, prepared), file)


def plan_rollback(
    store: Store,
    digest: str | None = None,
    *,
    allow_eviction: bool = False,
    allow_unvalidated_restore: bool = False,
    progress: Progress | None = None,
) -> LoadPlan:
    """
    Return the plan of a load of an earlier policy.

    Args:
        digest: As for `earlier_policy`, whose errors it raises.
        Others as for `plan_load`.
    """
    target = earlier_policy(store, digest)
    plan = plan_load(
        store,
        target.document,
        file=f"<policy {short_digest(target.digest)}>",
        allow_eviction=allow_eviction,
        allow_unvalidated_restore=allow_unvalidated_restore,
        progress=progress,
    )
    return replace(plan, source=f"of generation {target.generation}")


def check_consent(plan: LoadPlan, *, allow_widening: bool, allow_removal: bool) -> None:
    """
    Check that a plan does only what is allowed.

    Raises:
        RemovalError: It removes identities, and *allow_removal* is false.
        OperationError (widens): It widens access, and *allow_widening* is false.
    """
    widens = plan.preview.needs_permission and not allow_widening
    if plan.removed and not allow_removal:
        raise RemovalError(plan.prepared.file, plan.removed, widens)
    if widens:
        raise OperationError(
            "widens",
            f"this widens what {listing(plan.widened, 5)} may do, and nothing was activated",
            help="look at what is marked `widens`, then pass `allow_widening=True`",
        )


def apply_plan(
    store: Store,
    plan: LoadPlan,
    *,
    allow_widening: bool = False,
    allow_removal: bool = False,
    nodes: Sequence[Client] = (),
    progress: Progress | None = None,
) -> LoadResult:
    """
    Activate the policy of a plan and verify what the server stored.

    Args:
        nodes: Clients or URLs of further servers, such as replicas, whose ACL users are updated.
        progress: Called with the number of loaded guards and the total.

    Raises:
        RemovalError, OperationError (widens): See `check_consent`.
        PlanOutdatedError: Another policy was activated since the plan was made.
        OperationError (server-unreachable): One of *nodes* does not answer; nothing was changed.
        OperationError (not-verified): The server does not have what was activated.
    """
    check_consent(plan, allow_widening=allow_widening, allow_removal=allow_removal)
    others = connect_nodes(store.client, nodes)
    result = activate_policy(
        store,
        plan.prepared,
        others=others,
        expected=plan.preview.generation,
        plan=summary_of_plan(plan.preview),
        report=progress,
        allow_removal=allow_removal,
    )
    verify_activation(store, plan.prepared, result.generation)
    return replace(result, plan=plan, fenced=tuple(read_records(store)))


def require_policy(store: Store, digest: str | None = None) -> ActivePolicy:
    """
    Return the active policy, or the stored one whose digest begins with *digest*.

    Raises:
        OperationError (no-policy): No policy is active, or none is stored.
        OperationError (unknown-policy): See `earlier_policy`.
    """
    return require_active(store) if digest is None else earlier_policy(store, digest)


def earlier_policy(store: Store, digest: str | None = None) -> ActivePolicy:
    """
    Return the stored policy whose digest begins with *digest*; the previous one if None.

    Raises:
        OperationError (unknown-policy): There is none, or several; the help lists them.
        OperationError (no-policy): No policy is stored, or the previous one is not.
    """
    stored = read_history(store)
    if digest is None:
        active = require_active(store)
        before = active.before
        found = [item for item in stored if item.digest == before]
        if not before:
            raise OperationError(
                "no-policy",
                f"no other policy was active before generation {active.generation}",
                help="load a policy from its file",
            )
        if not found:
            raise OperationError(
                "no-policy",
                "the previous policy is not stored",
                help="see `keyleash policy history`, and name one with `to=DIGEST`",
            )
        return found[0]
    if not stored:
        raise no_policy("no policy is stored")
    found = [item for item in stored if item.digest.startswith(digest.lower())]
    if len(digest) >= MIN_DIGITS and len(found) == 1:
        return found[0]
    shown = printable(digest[:64])
    message = f"{len(found)} policies have a digest that begins with `{shown}`"
    if len(digest) < MIN_DIGITS:
        message = f"the digest `{shown}` is too short: give at least {MIN_DIGITS} digits"
    elif not found:
        message = f"no stored policy has the digest `{shown}`"
    names = (
        f"`{short_digest(item.digest)}` (generation {item.generation},"
        f" {clock_time(item.activated_ms)})"
        for item in stored
    )
    raise OperationError("unknown-policy", message, help=f"stored: {'; '.join(names)}")
