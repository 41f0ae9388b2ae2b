"""Apply an undo plan: all keys in one atomic script, or none; on a cluster, node by node."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from redis.exceptions import ClusterDownError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.audit.entries import text_of
from keyleash.audit.read import Query, read_events
from keyleash.audit.undo.key_plans import FORCIBLE, Action, ConflictKind, KeyPlan, UndoPlan
from keyleash.errors import NothingToUndoError, OperationError
from keyleash.operations import operation
from keyleash.policy.problems import listing
from keyleash.results import Result
from keyleash.store.agent_keys import node_of, undo_prefix_of
from keyleash.store.deployment import Node
from keyleash.store.failures import cluster_failure
from keyleash.store.keyspace import OPERATORS
from keyleash.store.placement import control_tag
from keyleash.store.scripts import UNDO, UNDO_AT_SHARD
from keyleash.store.shards import at_shard, name_shards
from keyleash.store.store import Store
from keyleash.store.streams import owner_name, record_action
from keyleash.store.token import reject_tokens
from keyleash.text import counted, json_object

_NO_EXPIRY = b"-1"


@dataclass(frozen=True, slots=True)
class UndoResult(Result):
    """The result of an undo.

    Attributes:
        correlation: The correlation id of the undo, which reverts it in turn.
        events: The events that record it, `@operators/<id>`.
        nodes: The nodes of a cluster whose keys were changed, each in one step.
    """

    correlation: str
    events: tuple[str, ...]
    restored: tuple[bytes, ...]
    removed: tuple[bytes, ...]
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = (("restored", self.restored), ("removed", self.removed))
        shown = ", ".join(f"{counted(len(keys), 'key')} {done}" for done, keys in parts if keys)
        return f"{shown}, in one step at each of {', '.join(self.nodes)}" if self.nodes else shown

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `undo --json` prints it, with the numbers of keys."""
        return {
            **json_object(self, "correlation", "events"),
            "restored": len(self.restored),
            "removed": len(self.removed),
            **json_object(self, "nodes?"),
        }


@operation("undo")
def apply_undo(store: Store, plan: UndoPlan) -> UndoResult:
    """Restore all keys of a plan atomically; the undo can be undone by its correlation id.

    Raises:
        OperationError (undo-denied): the plan has conflicts; nothing was changed.
        OperationError (changed-meanwhile): a key changed since the plan; nothing was changed.
        OperationError (undo-unanswered): the connection was lost, so the outcome is not known.
        OperationError (undo-incomplete): a node of a cluster failed after others were changed.
        NothingToUndoError: every key already has its target value, or is left out.
        SecretInTextError: the plan's description contains a token; nothing was changed.
    """
    reject_tokens(description=plan.description)
    if plan.blocked:
        raise blocked_error(plan)
    if not plan.changes:
        skipped = " that is not left out" * any(key.is_skipped for key in plan.keys)
        why = f"every key{skipped} already has its value from before these events"
        all_skipped = all(key.is_skipped for key in plan.keys)
        raise NothingToUndoError("every key is left out" if all_skipped else why)
    undo = f"undo-{secrets.token_hex(6)}"
    header = (store.actor, undo, plan.description, plan.steps[0].event, plan.steps[-1].event)
    by_shard = _by_shard(store, plan.changes)
    name_shards(store, OPERATORS, by_shard)
    done: list[KeyPlan] = []
    events: list[str] = []
    try:
        for tag, changes in by_shard.items():
            step = partial(_run_step, home=store, header=header, changes=changes, plan=plan)
            events += at_shard(store, tag, step)
            done += changes
    except (OperationError, RedisError) as error:
        if done:
            raise _incomplete(error, undo, done) from error
        raise
    finally:
        if done and store.cluster is not None:
            names = dict(zip(("undo", "selection", "from", "to"), header[1:], strict=True))
            record_action(store, "undo", **names, keys=str(len(done)))
    return UndoResult(
        correlation=undo,
        events=tuple(events),
        restored=tuple(change.key for change in done if change.action is Action.RESTORE),
        removed=tuple(change.key for change in done if change.action is Action.REMOVE),
        nodes=plan.nodes,
    )


def _by_shard(store: Store, changes: Sequence[KeyPlan]) -> dict[str, list[KeyPlan]]:
    """Return the changes of each node of a cluster by the tag of its shard; one server has ""."""
    by_node: dict[Node | None, list[KeyPlan]] = defaultdict(list)
    for change in changes:
        by_node[node_of(store, change.key)].append(change)
    if store.cluster is None:
        return {"": by_node[None]}
    tags = {node: control_tag(node.slots) if node else None for node in by_node}
    if None in tags.values():
        raise cluster_failure(ClusterDownError("no node serves the slot of a key"))
    return {tags[node] or "": some for node, some in by_node.items()}


def _incomplete(error: Exception, undo: str, done: Sequence[KeyPlan]) -> OperationError:
    """Return the error for an undo that some nodes of a cluster have applied."""
    return OperationError(
        "undo-incomplete",
        f"{counted(len(done), 'key')} undone at {counted(len({key.node for key in done}), 'node')},"
        f" and at the next one: {error}",
        help="run the undo again for the other keys; what was done can be reverted with"
        f" `keyleash undo --correlation {undo}`",
    )


def _run_step(
    shard: Store, *, home: Store, header: Sequence[str], changes: Sequence[KeyPlan], plan: UndoPlan
) -> list[str]:
    """Change keys of one node in one script, and return the events that record it."""
    script = UNDO if shard.cluster is None else UNDO_AT_SHARD
    undo = header[1]
    recorded = partial(_recorded, home, undo, plan.time_ms, shard.keys.tag)
    shard.load(script)
    try:
        outcome, *details = shard.run_loaded(script, *header, *_arguments(shard, changes))
    except (RedisConnectionError, RedisTimeoutError) as lost:
        outcome, details = b"UNDONE", recorded()
        if not details:
            raise OperationError(
                "undo-unanswered",
                "the connection was lost before the reply: either all of the plan was applied,"
                " or nothing",
                help=f"it was applied if `keyleash audit log --correlation {undo}` finds an event",
            ) from lost
    if outcome == b"CHANGED" and (ids := recorded()):
        # The plan itself changed the keys: the client lost the first reply and sent it again.
        outcome, details = b"UNDONE", ids
    match outcome:
        case b"CHANGED":
            raise OperationError(
                "changed-meanwhile",
                f"{listing(map(text_of, details), 3)} changed since the plan; nothing was undone",
                help="run the undo again to make a new plan",
            )
        case b"REFUSED":
            key, error = details
            raise OperationError(
                "undo-denied",
                f"the server rejects `{text_of(key)}`: {text_of(error)}; nothing was undone",
                help="use the primary of the server, or raise its `maxmemory`"
                if error.startswith((b"READONLY", b"OOM"))
                else "`skip=[KEY]` leaves a key out",
            )
    owner = owner_name(OPERATORS, shard.keys.tag)
    return [f"{owner}/{text_of(entry_id)}" for entry_id in details]


def _recorded(store: Store, undo: str, since_ms: int, shard: str) -> list[bytes]:
    """Return the ids of the events of an undo; none if the server cannot be reached."""
    try:
        query = Query(correlation=undo, since_ms=since_ms)
        events = list(read_events(store, [OPERATORS], query))
    except (RedisError, OperationError):
        return []
    return [event.id.encode() for event in events if event.shard == shard]


def blocked_error(plan: UndoPlan) -> OperationError:
    """Return the error for a plan with conflicts."""
    blocked, count = len(plan.blocked), len(plan.keys)
    which = "the key" if count == 1 else f"{blocked} of {count} keys"
    kinds = {
        conflict.kind
        for key in plan.blocked
        for conflict in key.conflicts
        if not conflict.is_forced
    }
    helps = {
        "`force=[KEY]` overrides a conflict": bool(kinds & FORCIBLE),
        "`across_policies=True` overrides the active policy": (ConflictKind.UNGRANTED in kinds),
        "`skip=[KEY]` leaves a key out, `skip_conflicts=True` all with conflicts": True,
        "with `before_images` in the policy, later changes can be undone": (
            ConflictKind.NOT_RECORDED in kinds
        ),
    }
    return OperationError(
        "undo-denied",
        f"cannot restore {which}; nothing was changed",
        help="; ".join(text for text, applies in helps.items() if applies),
    )


def _arguments(store: Store, plans: Sequence[KeyPlan]) -> Iterator[bytes | str]:
    """Yield the arguments of `undo.lua` for each key."""
    for number, plan in enumerate(plans):
        yield plan.key
        yield f"{undo_prefix_of(store, plan.key)}{number}"
        yield plan.current.digest
        yield _expiry(plan.current.expires_ms)
        if plan.action is Action.REMOVE or plan.image is None or plan.image.content is None:
            yield from ("", "", "")
        else:
            yield from (_expiry(plan.image.expires_ms), *plan.image.content)


def _expiry(expires_ms: int | None) -> bytes:
    return _NO_EXPIRY if expires_ms is None else b"%d" % expires_ms
