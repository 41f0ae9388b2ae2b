"""From what is chosen to a plan: the trails, the server and the active policy are read."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

from keyleash.audit.undo.grants import Grants
from keyleash.audit.undo.others import read_others
from keyleash.audit.undo.plan import FORCIBLE, KeyPlan, Kind, Obstacle, Seen, UndoPlan, plan_key
from keyleash.audit.undo.selection import Selection, select_events
from keyleash.audit.undo.steps import Step, images_of, read_back, steps_of
from keyleash.audit.undo.trust import Trust, nothing_trusted
from keyleash.audit.undo.values import read_images, read_keys
from keyleash.compiler.templates import UNDO_MAX_BYTES
from keyleash.errors import NothingToUndoError, UndoTooLargeError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import OPERATORS, PUBLIC_PREFIX, Keyspace
from keyleash.protocol.operator_client import operator_client
from keyleash.protocol.sealed import server_keyspace

MAX_KEYS = 10_000
"""Most keys that an undo touches: the server serves nobody meanwhile."""


def plan_undo(
    client: Client,
    selection: Selection,
    *,
    forced: Container[bytes] = (),
    skipped: Container[bytes] = (),
    across_policies: bool = False,
    keyspace: Keyspace | None = None,
) -> UndoPlan:
    """
    Plan the way back: each key is to hold what it held before the oldest event that is meant.

    Nothing is changed.

    Args:
        client: A redis-py client of an operator.
        selection: Which events are meant.
        forced: Keys for which conflicts, and what the policy grants, do not count.
        skipped: Keys that are left out.
        across_policies: Whether no key needs to be granted by the active policy.
        keyspace: Where keys are; what the server's record says if None.

    Raises:
        NothingToUndoError: no event is meant, or those that are changed nothing.
        UnknownEventError: there is no such event.
        AmbiguousEventError: several identities have an event of that id.
        UnknownIdentityError: no identity ever had that name.
        UndoTooLargeError: it would hold up the server for too long.
    """
    client = operator_client(client)
    keyspace = keyspace or server_keyspace(client)
    grants = Grants(client, keyspace)
    trust = Trust(grants, selection.keys)
    by_key = steps_of(select_events(client, keyspace, selection, trust))
    chosen = {key: steps for key, steps in by_key.items() if selection.concerns(key)}
    if len(chosen) > MAX_KEYS:
        raise UndoTooLargeError(
            f"this would undo what was done to {len(chosen)} keys, and {MAX_KEYS} are the most",
            help="undo fewer at a time, the newest first",
        )
    seen = _look(client, keyspace, chosen)
    steps = {key: read_back(some, seen.images) for key, some in chosen.items()}
    plans = {key: plan for key in steps if (plan := plan_key(key, steps[key], seen))}
    if not plans:
        if masked := [key for key in by_key if key not in chosen and selection.may_concern(key)]:
            shown = masked[0].decode("utf-8", "backslashreplace")
            raise NothingToUndoError(
                f"what this would undo is masked, so its name is not recorded: `{shown}`"
            )
        if trust.untrusted.total():
            raise nothing_trusted(trust.untrusted)
        raise NothingToUndoError("the events that this would undo changed nothing")
    contested = {key: steps[key] for key, plan in plans.items() if plan.is_contested}
    if contested:
        for key, others in read_others(client, keyspace, contested, grants).items():
            plans[key] = plan_key(key, steps[key], seen, others) or plans[key]
    found = list(plans.values())
    if not across_policies:
        found = _with_grants(grants, found)
    found = [_decided(plan, forced, skipped) for plan in found]
    found.sort(key=lambda plan: plan.steps[-1].time_ms, reverse=True)
    left_alone = tuple(key for key in by_key if key not in chosen)
    made = UndoPlan(tuple(found), seen.time_ms, left_alone, +trust.untrusted)
    _check_size(made.changes)
    return made


def _look(client: Client, keyspace: Keyspace, chosen: Mapping[bytes, Sequence[Step]]) -> Seen:
    seconds, micros = client.time()
    images = read_images(client, keyspace, images_of(chosen.values()))
    return Seen(
        keys=read_keys(client, keyspace, list(chosen)),
        images=images,
        time_ms=int(seconds) * 1000 + int(micros) // 1000,
        prefixes=(keyspace.prefix.encode(), PUBLIC_PREFIX.encode()),
        withheld=images.withheld.images,
    )


def _with_grants(grants: Grants, plans: Sequence[KeyPlan]) -> list[KeyPlan]:
    """An undo is an operator's, but it is not to bring back what the policy gave up."""
    found = []
    for plan in plans:
        names = dict.fromkeys(step.identity for step in plan.steps if step.identity != OPERATORS)
        ungranted = tuple(name for name in names if not grants.may_change(name, plan.key))
        more = (Obstacle(Kind.UNGRANTED, identities=ungranted),) if ungranted else ()
        found.append(replace(plan, obstacles=(*plan.obstacles, *more)))
    return found


def _decided(plan: KeyPlan, forced: Container[bytes], skipped: Container[bytes]) -> KeyPlan:
    is_forced = plan.key in forced
    obstacles = tuple(
        replace(one, is_forced=is_forced and one.kind in FORCIBLE) for one in plan.obstacles
    )
    return replace(plan, obstacles=obstacles, is_skipped=plan.key in skipped)


def _check_size(plans: Iterable[KeyPlan]) -> None:
    size = sum(plan.now.size + (plan.then.size if plan.then else 0) for plan in plans)
    if size > UNDO_MAX_BYTES:
        raise UndoTooLargeError(
            f"this would move {size >> 20} MiB, and {UNDO_MAX_BYTES >> 20} MiB are the most",
            help="undo fewer at a time, the newest first",
        )
