"""Load policies: plans, consent, rollback, and the active policy and those before it."""

from __future__ import annotations

from dataclasses import replace

from keyleash.addons.policy_tests.invariants import require_invariants
from keyleash.api.policy import Policy
from keyleash.errors import OperationError, RemovalError, no_policy
from keyleash.operations import operation
from keyleash.operator.load.activate import LoadResult, activate_policy, verify_activation
from keyleash.operator.load.compile import prepare_policy
from keyleash.operator.load.load_plan import LoadPlan
from keyleash.operator.load.preview import preview_load, summary_of_plan
from keyleash.policy.problems import listing
from keyleash.results import Progress
from keyleash.store.identities import require_active
from keyleash.store.records import ActivePolicy, read_active, read_history
from keyleash.store.store import Store
from keyleash.text import StoredDocument, clock_time, printable, short_digest

MIN_DIGITS = 6
"""Minimum length of the digest prefix that selects a stored policy."""


active_policy = operation()(read_active)
stored_policies = operation("policy history")(read_history)


@operation("plan")
def plan_load(
    store: Store,
    policy: Policy,
    *,
    allow_eviction: bool = False,
    allow_unvalidated_restore: bool = False,
    progress: Progress | None = None,
) -> LoadPlan:
    """Compile a policy for the server and return what a load of it would change.

    Nothing is written.

    Args:
        allow_eviction: Plan also for a server that may evict control keys.
        allow_unvalidated_restore: Plan also a policy that allows RESTORE on a server that does
            not validate payloads.
        progress: Called with the number of compiled guards and the total, in any thread.

    Raises:
        PolicyError: the policy has problems, or breaks an invariant in the test files that it
            names; a stored policy is not checked again.
        EvictionError, UnvalidatedRestoreError: see the arguments.
    """
    prepared = prepare_policy(
        store,
        policy.document,
        file=policy.file,
        allow_eviction=allow_eviction,
        allow_unvalidated_restore=allow_unvalidated_restore,
        report=progress,
    )
    if not isinstance(policy.document, StoredDocument):
        require_invariants(prepared.policy, policy.file, prepared.table)
    return LoadPlan(prepared, preview_load(store, prepared), policy.file)


@operation()
def plan_rollback(
    store: Store,
    to: str | None = None,
    *,
    allow_eviction: bool = False,
    allow_unvalidated_restore: bool = False,
    progress: Progress | None = None,
) -> LoadPlan:
    """Return what `rollback` would change; nothing is written.

    *to* and errors are those of `rollback`, the other arguments those of `plan`.
    """
    target = earlier_policy(store, to)
    plan = plan_load(
        store,
        Policy(target.document, file=f"<policy {short_digest(target.digest)}>"),
        allow_eviction=allow_eviction,
        allow_unvalidated_restore=allow_unvalidated_restore,
        progress=progress,
    )
    return replace(plan, source=f"of generation {target.generation}")


def check_consent(plan: LoadPlan, *, allow_widening: bool, allow_removal: bool) -> None:
    """Check that a plan does only what is allowed.

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


@operation()
def apply_plan(
    store: Store,
    plan: LoadPlan,
    *,
    allow_widening: bool = False,
    allow_removal: bool = False,
    progress: Progress | None = None,
) -> LoadResult:
    """Activate the policy of a plan; see `load` for consent.

    Args:
        plan: As `plan` or `plan_rollback` returned it; nothing is activated if it is outdated.
        progress: Called with the number of loaded guards and the total, in any thread.
    """
    check_consent(plan, allow_widening=allow_widening, allow_removal=allow_removal)
    result = activate_policy(
        store,
        plan.prepared,
        expected=plan.preview.generation,
        plan=summary_of_plan(plan.preview),
        report=progress,
        allow_removal=allow_removal,
    )
    verify_activation(store, plan.prepared, result.generation)
    return replace(result, plan=plan)


@operation("load")
def load(
    store: Store,
    policy: Policy,
    *,
    expect: LoadPlan | None = None,
    allow_widening: bool = False,
    allow_removal: bool = False,
    allow_eviction: bool = False,
    allow_unvalidated_restore: bool = False,
) -> LoadResult:
    """Activate a policy atomically, and verify what the server stored.

    Counts of limits, tokens and suspensions stay as they are.

    Args:
        expect: Its plan, as `plan` returned it; nothing is loaded if it is outdated.
        allow_widening: Load also if an identity gets more access than it has.
        allow_removal: Load also if the policy lacks an identity of the active one.
        allow_eviction: As for `plan`; those of *expect*, if given.
        allow_unvalidated_restore: As for `plan`; those of *expect*, if given.

    Raises:
        PolicyError: the policy has problems.
        PlanOutdatedError: another policy was activated since *expect* was made.
        OperationError (widens): it widens access, and *allow_widening* is false.
        RemovalError: it removes identities, and *allow_removal* is false.
        ValueError: *expect* is the plan of another policy.
    """
    plan = expect or plan_load(
        store,
        policy,
        allow_eviction=allow_eviction,
        allow_unvalidated_restore=allow_unvalidated_restore,
    )
    if plan.prepared.document != policy.document:
        raise ValueError("`expect` is the plan of another policy")
    store = store.reopened()
    return apply_plan(store, plan, allow_widening=allow_widening, allow_removal=allow_removal)


@operation("rollback")
def rollback(
    store: Store,
    to: str | None = None,
    *,
    allow_widening: bool = False,
    allow_removal: bool = False,
    allow_eviction: bool = False,
    allow_unvalidated_restore: bool = False,
) -> LoadResult:
    """Activate an earlier policy again; other arguments are those of `load`.

    Args:
        to: The first digits of its digest, at least 6; the previous policy if None.

    Raises:
        OperationError (no-policy): there is none before the active one.
        OperationError (unknown-policy): the history has none, or several, with that digest.
    """
    plan = plan_rollback(
        store,
        to,
        allow_eviction=allow_eviction,
        allow_unvalidated_restore=allow_unvalidated_restore,
    )
    store = store.reopened()
    return apply_plan(store, plan, allow_widening=allow_widening, allow_removal=allow_removal)


@operation("policy show")
def require_policy(store: Store, digest: str | None = None) -> ActivePolicy:
    """Return the active policy, or a stored one by the first digits of its digest.

    Raises:
        OperationError (no-policy): no policy is active, or none is stored.
        OperationError (unknown-policy): the history has none, or several, with that digest.
    """
    return require_active(store) if digest is None else earlier_policy(store, digest)


def earlier_policy(store: Store, digest: str | None = None) -> ActivePolicy:
    """Return the stored policy whose digest begins with *digest*; the previous one if None.

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
