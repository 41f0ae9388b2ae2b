"""Apply an undo plan: all keys in one atomic script, or none."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.audit.entries import text_of
from keyleash.audit.read import Query, read_events
from keyleash.audit.undo.plan import FORCIBLE, Action, ConflictKind, KeyPlan, UndoPlan
from keyleash.audit.undo.values import HELP, find_withheld
from keyleash.errors import NothingToUndoError, OperationError
from keyleash.results import Result
from keyleash.store.keyspace import OPERATORS
from keyleash.store.scripts import UNDO
from keyleash.store.store import Store
from keyleash.store.token import reject_tokens
from keyleash.text import counted, json_object

_NO_EXPIRY = b"-1"


@dataclass(frozen=True, slots=True)
class UndoResult(Result):
    """The result of an undo.

    Attributes:
        correlation: The correlation id of the undo, which reverts it in turn.
        events: The events that record it, `@operators/<id>`.
    """

    correlation: str
    events: tuple[str, ...]
    restored: tuple[bytes, ...]
    removed: tuple[bytes, ...]

    def __str__(self) -> str:
        parts = (("restored", self.restored), ("removed", self.removed))
        return ", ".join(f"{counted(len(keys), 'key')} {done}" for done, keys in parts if keys)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `undo --json` prints it, with the numbers of keys."""
        return {
            **json_object(self, "correlation", "events"),
            "restored": len(self.restored),
            "removed": len(self.removed),
        }


def apply_undo(store: Store, plan: UndoPlan) -> UndoResult:
    """Apply *plan*, and record it so that it can be undone in turn.

    Args:
        plan: A plan from `plan_undo`.

    Raises:
        SecretInTextError: the plan's description contains a token; nothing was changed.
        OperationError (undo-denied): the plan has conflicts, or the server rejects a value.
        UnvalidatedRestoreError: an agent may have forged a before-image, and the server does not
            validate payloads.
        NothingToUndoError: every key already has its target value.
        OperationError (changed-meanwhile): a key was changed since the plan was made.
        OperationError (undo-unanswered): the connection was lost, so the outcome is not known.
    """
    reject_tokens(description=plan.description)
    if plan.blocked:
        raise blocked_error(plan)
    if not plan.changes:
        raise NothingToUndoError("every key already has its value from before these events")
    _require_validated(store, plan.changes)
    undo = f"undo-{secrets.token_hex(6)}"
    header = (store.actor, undo, plan.description, plan.steps[0].event, plan.steps[-1].event)
    store.load(UNDO)
    try:
        outcome, *details = store.run_loaded(UNDO, *header, *_arguments(plan.changes))
    except (RedisConnectionError, RedisTimeoutError) as lost:
        outcome, details = b"UNDONE", _recorded(store, undo, plan.time_ms)
        if not details:
            raise OperationError(
                "undo-unanswered",
                "the connection was lost before the reply: either all of the plan was applied,"
                " or nothing",
                help=f"it was applied if `keyleash audit log --correlation {undo}` finds an event",
            ) from lost
    if outcome == b"CHANGED" and (ids := _recorded(store, undo, plan.time_ms)):
        # The plan itself changed the keys: the client lost the first reply and sent it again.
        outcome, details = b"UNDONE", ids
    match outcome:
        case b"CHANGED":
            raise OperationError(
                "changed-meanwhile",
                f"{_keys(details)} changed since the plan was made; nothing was undone",
                help="run the undo again to make a new plan",
            )
        case b"REFUSED":
            key, error = details
            raise OperationError(
                "undo-denied",
                f"the server rejects {_keys([key])}: {text_of(error)}; nothing was undone",
                help="use the primary of the server, or raise its `maxmemory`"
                if error.startswith((b"READONLY", b"OOM"))
                else "`--skip KEY` (`skip=[KEY]`) leaves a key out",
            )
    return UndoResult(
        correlation=undo,
        events=tuple(f"{OPERATORS}/{text_of(entry_id)}" for entry_id in details),
        restored=tuple(change.key for change in plan.changes if change.action is Action.RESTORE),
        removed=tuple(change.key for change in plan.changes if change.action is Action.REMOVE),
    )


def _require_validated(store: Store, plans: Sequence[KeyPlan]) -> None:
    """Check again: the server's setting may have changed since the plan was made."""
    restored = {
        plan.key: (plan.steps[0].identity, plan.image.content)
        for plan in plans
        if plan.action is Action.RESTORE and plan.image and plan.image.content
    }
    withheld = find_withheld(store, restored.values())
    if withheld.images:
        keys = [key for key, (_, content) in restored.items() if content in withheld.images]
        raise withheld.error(f"the before-image of {_keys(keys)}")


def _recorded(store: Store, undo: str, since_ms: int) -> list[bytes]:
    """Return the ids of the events of an undo; none if the server cannot be reached."""
    try:
        query = Query(correlation=undo, since_ms=since_ms)
        return [event.id.encode() for event in read_events(store, [OPERATORS], query)]
    except RedisError:
        return []


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
        "`--force KEY` (`force=[KEY]`) overrides a conflict": bool(kinds & FORCIBLE),
        "`--across-policies` (`across_policies=True`) overrides the active policy": (
            ConflictKind.UNGRANTED in kinds
        ),
        "`--skip KEY` (`skip=[KEY]`) leaves a key out": True,
        HELP: ConflictKind.UNVALIDATED in kinds,
        "with `before_images` in the policy, later changes can be undone": (
            ConflictKind.NOT_RECORDED in kinds
        ),
    }
    return OperationError(
        "undo-denied",
        f"cannot restore {which}; nothing was changed",
        help="; ".join(text for text, applies in helps.items() if applies),
    )


def _arguments(plans: Sequence[KeyPlan]) -> Iterator[bytes | str]:
    """Yield the arguments of `undo.lua` for each key."""
    for plan in plans:
        yield plan.key
        yield plan.current.digest
        yield _expiry(plan.current.expires_ms)
        if plan.action is Action.REMOVE or plan.image is None or plan.image.content is None:
            yield from ("", "", "")
        else:
            yield from (_expiry(plan.image.expires_ms), *plan.image.content)


def _expiry(expires_ms: int | None) -> bytes:
    return _NO_EXPIRY if expires_ms is None else b"%d" % expires_ms


def _keys(keys: Sequence[bytes]) -> str:
    shown = ", ".join(f"`{text_of(key)}`" for key in keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"
