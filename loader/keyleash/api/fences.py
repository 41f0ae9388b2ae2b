"""The functions of a store behind `Operator.fence`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from keyleash.api.policy import Policy
from keyleash.errors import NotFencedError, PlanOutdatedError, UsageError
from keyleash.fence import (
    FencedServers,
    FencedUser,
    FenceOutcome,
    FencePlan,
    GeneratedPassword,
    PasswordRotation,
    Tier,
    add_passwords,
    apply_fences,
    desired_users,
    drop_old_passwords,
    generate_password,
    plan_fences,
    read_records,
    remove_fences,
    with_first_passwords,
)
from keyleash.fence.rotate import require_fenced
from keyleash.fence.servers import servers_with_users
from keyleash.operator.load.compile import prepare_policy
from keyleash.store.connect import connect_nodes, server_name
from keyleash.store.fences import password_hashes, tier_of
from keyleash.store.identities import require_active
from keyleash.store.records import read_active
from keyleash.store.server_check import Client
from keyleash.store.store import Store

Hashes = Mapping[str, str] | str
"""SHA-256 of passwords in hex by identity, or text with lines `identity sha256`."""


def plan_users(
    store: Store,
    nodes: Sequence[Client],
    *,
    policy: Policy | None,
    tier: Tier | None,
    wide: Collection[str],
    hashes: Hashes,
    generate: bool,
) -> FencePlan:
    """Return what `apply_users` would do; nothing is changed."""
    present = tier_of(store.keys)
    if tier not in (None, present):
        state = "sealed" if present is Tier.SEALED else "not sealed"
        raise UsageError(
            f"the server is {state}, so its users cannot have the tier `{tier}`",
            help="name no tier, or seal the server first",
        )
    servers = _servers(store, nodes)
    active = require_active(store)
    guards = prepare_policy(
        store,
        active.document if policy is None else policy.document,
        file="<active policy>" if policy is None else policy.file,
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


def apply_users(
    store: Store, plan: FencePlan, announce: Callable[[Sequence[GeneratedPassword]], None]
) -> FenceOutcome:
    """Carry out a plan."""
    if server_name(store.client) != server_name(plan.servers.store.client):
        raise ValueError("`plan` is the plan of another server")
    active = read_active(store)
    if active is None or (active.generation, store.keys) != (
        plan.generation,
        plan.servers.store.keys,
    ):
        raise PlanOutdatedError(
            "activation-conflict",
            "another policy was activated since the plan was made; no user was changed",
            help="make the plan again",
        )
    return apply_fences(
        plan.servers, plan.users, wide=plan.wide, passwords=plan.passwords, announce=announce
    )


def fenced_identities(store: Store, identities: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the identities that have an ACL user; only some of them, if they are named."""
    records = read_records(store)
    for name in identities:
        require_fenced(records, name)
    return tuple(dict.fromkeys(identities)) or tuple(sorted(records))


def rotate_passwords(
    store: Store,
    identities: Sequence[str],
    nodes: Sequence[Client],
    hashes: Hashes | None,
    announce: Callable[[Sequence[GeneratedPassword]], None],
) -> PasswordRotation:
    """Add a second password to each user."""
    servers = _servers(store, nodes)
    named = _any_fenced(store, identities)
    passwords = tuple(map(generate_password, named)) if hashes is None else ()
    given = password_hashes(hashes or "", named)
    given |= {item.identity: item.sha256 for item in passwords}
    add_passwords(servers, given, lambda: announce(passwords))
    return PasswordRotation(passwords, tuple(given))


def finish_rotation(
    store: Store, identities: Sequence[str], nodes: Sequence[Client]
) -> tuple[str, ...]:
    """Remove the older password of each user; return the identities that had one."""
    servers = _servers(store, nodes)
    return tuple(drop_old_passwords(servers, _any_fenced(store, identities)))


def remove_users(
    store: Store, identities: Sequence[str], nodes: Sequence[Client]
) -> tuple[FencedUser, ...]:
    """Delete users; return those that were deleted."""
    servers = _servers(store, nodes)
    return tuple(remove_fences(servers, fenced_identities(store, identities)))


def _servers(store: Store, nodes: Sequence[Client]) -> FencedServers:
    return FencedServers.read(store, servers_with_users(store, connect_nodes(store.client, nodes)))


def _any_fenced(store: Store, identities: Sequence[str]) -> tuple[str, ...]:
    named = fenced_identities(store, identities)
    if not named:
        raise NotFencedError(
            "no identity has an ACL user", help="create them with `keyleash fence apply`"
        )
    return named
