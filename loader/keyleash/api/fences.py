"""The ACL users of agents, and their passwords: the operations of `Operator.fence`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from keyleash.api.policy import Policy
from keyleash.errors import NotFencedError, PlanOutdatedError
from keyleash.fence.acl_steps import FencePlan, plan_fences
from keyleash.fence.apply import FenceOutcome, apply_fences, remove_fences
from keyleash.fence.desired import desired_users, with_first_passwords
from keyleash.fence.rotate import (
    PasswordRotation,
    add_passwords,
    drop_old_passwords,
    require_fenced,
)
from keyleash.fence.servers import FencedServers, FencedUser, servers_with_users
from keyleash.operations import operation
from keyleash.operator.load.compile import prepare_policy
from keyleash.policy.parse import ACTIVE
from keyleash.store.connect import AnyClient, connect_nodes, server_name
from keyleash.store.fences import (
    GeneratedPassword,
    generate_password,
    password_hashes,
    read_records,
)
from keyleash.store.identities import require_active
from keyleash.store.records import read_active
from keyleash.store.server_check import Client
from keyleash.store.store import Store

Hashes = Mapping[str, str] | str
"""SHA-256 of passwords in hex by identity, or text with lines `identity sha256`."""


@operation()
def plan_users(
    store: Store,
    *,
    nodes: Sequence[AnyClient | str] = (),
    policy: Policy | None = None,
    wide: Collection[str] = (),
    hashes: Hashes = "",
    generate: bool = False,
) -> FencePlan:
    """Return what `apply` would do; nothing is changed.

    Args:
        policy: A policy that must be the active one.
        wide: Identities that are fenced although their patterns may match control keys.
        hashes: SHA-256 of passwords in hex for users without one, by identity, or text with
            lines `identity sha256`.
        generate: Generate a password for every other user without one: `passwords` of the
            plan.

    Raises:
        OperationError (no-policy): no policy is active.
        OperationError (not-active-policy): *policy* is not the active one.
        OperationError (unknown-identity): *wide* or *hashes* names no identity of the policy.
        OperationError (unsayable-pattern): ACL rules cannot express a pattern.
        UsageError: *hashes* is malformed.
    """
    servers = _servers(store, nodes)
    active = require_active(store)
    guards = prepare_policy(
        store,
        active.document if policy is None else policy.document,
        file=ACTIVE if policy is None else policy.file,
        allow_eviction=True,
        allow_unvalidated_restore=True,
    ).guards
    given = password_hashes(hashes, [guard.identity for guard in guards])
    users, passwords = with_first_passwords(
        servers, desired_users(servers, guards), given, wide=wide, generate=generate
    )
    return FencePlan(
        plan_fences(servers, users, wide=wide),
        tuple(users),
        tuple(passwords),
        servers,
        frozenset(wide),
        active.generation,
    )


@operation()
def apply_users(
    store: Store,
    plan: FencePlan,
    *,
    announce: Callable[[Sequence[GeneratedPassword]], None] = lambda _passwords: None,
) -> FenceOutcome:
    """Create, change and delete the users of a plan, and verify them on each server.

    Args:
        plan: A plan that `plan` returned.
        announce: As for `rotate`.

    Raises:
        PlanOutdatedError: another policy is active than the plan was made for.
        ValueError: it is the plan of another server.
        ForeignUserError: a user was not made by keyleash; nothing was changed.
        RulesRejectedError: a server rejects a rule.
        OperationError (fence-not-verified): a user is not as it was set.
    """
    if server_name(store.client) != server_name(plan.servers.store.client):
        raise ValueError("`plan` is the plan of another server")
    active = read_active(store)
    if active is None or active.generation != plan.generation:
        raise PlanOutdatedError(
            "activation-conflict",
            "another policy was activated since the plan was made; no user was changed",
            help="make the plan again",
        )
    return apply_fences(
        plan.servers, plan.users, wide=plan.wide, passwords=plan.passwords, announce=announce
    )


@operation()
def fenced_identities(store: Store, *identities: str) -> tuple[str, ...]:
    """Return the identities that have an ACL user, or those that are named.

    Raises:
        NotFencedError: one of those that are named has none.
    """
    records = read_records(store)
    for name in identities:
        require_fenced(records, name)
    return tuple(dict.fromkeys(identities)) or tuple(sorted(records))


@operation()
def rotate_passwords(
    store: Store,
    *identities: str,
    nodes: Sequence[AnyClient | str] = (),
    hashes: Hashes | None = None,
    announce: Callable[[Sequence[GeneratedPassword]], None] = lambda _passwords: None,
) -> PasswordRotation:
    """Add a second password to the users of some identities, or of all.

    Args:
        identities: Their names; all that have users if none is given.
        hashes: As for `plan`; if None, passwords are generated.
        announce: Called with the generated passwords before the first user is changed, to
            store them: if a server fails later, others may have them already.

    Raises:
        NotFencedError: an identity has no ACL user; nothing was changed.
        RotationUnfinishedError: a user has two passwords already; nothing was changed.
        ForeignUserError: a user was not made by keyleash; nothing was changed.
        UsageError: *hashes* is malformed.
    """
    servers = _servers(store, nodes)
    named = _any_fenced(store, identities)
    passwords = tuple(map(generate_password, named)) if hashes is None else ()
    given = password_hashes(hashes or "", named)
    given |= {item.identity: item.sha256 for item in passwords}
    add_passwords(servers, given, lambda: announce(passwords))
    return PasswordRotation(passwords, tuple(given))


@operation()
def finish_rotation(
    store: Store, *identities: str, nodes: Sequence[AnyClient | str] = ()
) -> tuple[str, ...]:
    """Remove the older password of users; return the identities that had one.

    Raises:
        NotFencedError, ForeignUserError: as for `rotate`.
    """
    servers = _servers(store, nodes)
    return tuple(drop_old_passwords(servers, _any_fenced(store, identities)))


@operation()
def remove_users(
    store: Store, *identities: str, nodes: Sequence[AnyClient | str] = ()
) -> tuple[FencedUser, ...]:
    """Delete the users of some identities, or of all, which closes their connections.

    Returns:
        The deleted users.

    Raises:
        NotFencedError: an identity has no ACL user; nothing was changed.
        ForeignUserError: a user was not made by keyleash, and remains; others were deleted.
    """
    servers = _servers(store, nodes)
    return tuple(remove_fences(servers, fenced_identities(store, *identities)))


def _servers(store: Store, nodes: Sequence[Client]) -> FencedServers:
    return FencedServers.read(store, servers_with_users(store, connect_nodes(store.client, nodes)))


def _any_fenced(store: Store, identities: Sequence[str]) -> tuple[str, ...]:
    named = fenced_identities(store, *identities)
    if not named:
        raise NotFencedError(
            "no identity has an ACL user", help="create them with `keyleash fence apply`"
        )
    return named
