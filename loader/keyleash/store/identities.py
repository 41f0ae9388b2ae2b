"""The identities of a server: the active ones, and all that ever were."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.errors import OperationError, no_policy
from keyleash.policy.problems import which_identity
from keyleash.store.records import ActivePolicy, GuardRecord, guard_record, read_active
from keyleash.store.server import round_trip
from keyleash.store.store import Store


def known_identities(store: Store) -> list[str]:
    """Return the names of all identities that were ever active, sorted."""
    return sorted(name.decode() for name in store.client.hkeys(store.keys.layouts))


def require_known(store: Store, name: str | None) -> list[str]:
    """Return the identity *name*, or all known ones if it is None.

    Raises:
        OperationError (no-policy): no policy was ever loaded.
        OperationError (unknown-identity): none has that name. An identity that left the
            policy still has its tokens and its audit stream.
    """
    identities = known_identities(store)
    if not identities:
        raise no_policy()
    if name is None:
        return identities
    if name not in identities:
        raise OperationError(
            "unknown-identity",
            f"there is no identity `{name}`",
            help=which_identity(name, identities, "there are"),
        )
    return [name]


def require_active(store: Store) -> ActivePolicy:
    """Return the active policy.

    Raises:
        OperationError (no-policy): No policy is active.
    """
    active = read_active(store)
    if active is None:
        raise no_policy()
    return active


def active_records(store: Store, names: Iterable[str]) -> dict[str, GuardRecord]:
    """Return the guard records of those of *names* that are active."""
    wanted = list(names)
    raw = round_trip(store.client, (("HGETALL", store.keys.guard(name)) for name in wanted))
    records = {name: guard_record(item) for name, item in zip(wanted, raw, strict=True)}
    return {name: record for name, record in records.items() if record is not None}
