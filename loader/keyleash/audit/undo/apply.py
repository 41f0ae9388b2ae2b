"""Going the way back: all keys in one atomic script, or none."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.audit.read import Query, read_events
from keyleash.audit.undo.plan import Action, ConflictKind, KeyPlan, UndoPlan
from keyleash.audit.undo.values import HELP, find_withheld
from keyleash.compiler.render import operator_script
from keyleash.errors import (
    NothingToUndoError,
    OperationError,
)
from keyleash.store.keyspace import OPERATORS, Keyspace
from keyleash.store.prefixes import server_keyspace
from keyleash.store.records import Client
from keyleash.store.server_check import operator_client
from keyleash.store.token import reject_tokens

_NO_EXPIRY = b"-1"


@dataclass(frozen=True, slots=True)
class UndoResult:
    """
    What an undo did.

    Attributes:
        correlation: Its id: undoing that undoes it.
        events: The events that it is recorded as, `@operators/<id>`.
        restored: Keys that hold again what they held.
        removed: Keys that are gone again.
    """

    correlation: str
    events: tuple[str, ...]
    restored: tuple[bytes, ...]
    removed: tuple[bytes, ...]


def apply_undo(
    client: Client,
    plan: UndoPlan,
    *,
    description: str = "",
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> UndoResult:
    """
    Do what *plan* says, and record it so that it can be undone.

    Args:
        client: A redis-py client of an operator.
        plan: As `plan_undo` made it.
        description: What was asked for, for the control stream.
        actor: Who does it, for the record.
        keyspace: Where keys are; what the server's record says if None.

    Raises:
        SecretInTextError: *description* or *actor* contains a token; nothing was changed.
        OperationError (undo-refused): something is in the way, or the server does not take it.
        UnvalidatedRestoreError: an agent may have made up a before-image, and the server does not
            validate payloads.
        NothingToUndoError: every key holds already what it held.
        OperationError (changed-meanwhile): a key was changed since the plan was made.
        OperationError (undo-unanswered): the connection was lost; whether it was done is not known.
    """
    client = operator_client(client)
    reject_tokens(description=description, actor=actor)
    keyspace = keyspace or server_keyspace(client)
    if plan.blocked:
        raise refusal(plan)
    if not plan.changes:
        raise NothingToUndoError("every key holds already what it held before")
    _require_validated(client, keyspace, plan.changes)
    undo = f"undo-{secrets.token_hex(6)}"
    steps = plan.steps
    header = (actor, undo, description, steps[0].event, steps[-1].event)
    digest = client.script_load(operator_script("undo.lua", keyspace))
    try:
        word, *said = client.evalsha(digest, 0, *header, *_words(plan.changes))
    except (RedisConnectionError, RedisTimeoutError) as lost:
        word, said = b"UNDONE", _recorded(client, keyspace, undo, plan.time_ms)
        if not said:
            raise OperationError(
                "undo-unanswered",
                "the connection was lost before the answer came:"
                " all of this was undone, or nothing was",
                help=f"it was, if `keyleash audit log --correlation {undo}` finds an event",
            ) from lost
    if word == b"CHANGED" and (done := _recorded(client, keyspace, undo, plan.time_ms)):
        # By itself: a client that lost the answer sent it again.
        word, said = b"UNDONE", done
    match word:
        case b"CHANGED":
            raise OperationError(
                "changed-meanwhile",
                f"{_keys(said)} changed since the plan was made; nothing was undone",
                help="plan it again",
            )
        case b"REFUSED":
            key, error = said
            raise OperationError(
                "undo-refused",
                f"the server does not take {_keys([key])}: {_text(error)}; nothing was undone",
            )
    return UndoResult(
        correlation=undo,
        events=tuple(f"{OPERATORS}/{_text(entry_id)}" for entry_id in said),
        restored=tuple(change.key for change in plan.changes if change.action is Action.RESTORE),
        removed=tuple(change.key for change in plan.changes if change.action is Action.REMOVE),
    )


def _require_validated(client: Client, keyspace: Keyspace, plans: Sequence[KeyPlan]) -> None:
    """Look again: the server's setting may be another than when the plan was made."""
    withheld = find_withheld(
        client,
        keyspace,
        [
            (plan.steps[0].identity, plan.image.content)
            for plan in plans
            if plan.action is Action.RESTORE and plan.image and plan.image.content
        ],
    )
    if withheld.images:
        keys = [plan.key for plan in plans if plan.image and plan.image.content in withheld.images]
        raise withheld.error(f"the before-image of {_keys(keys)}")


def _recorded(client: Client, keyspace: Keyspace, undo: str, since_ms: int) -> list[bytes]:
    """The events of an undo; none if it was not done, or the server is out of reach."""
    try:
        query = Query(correlation=undo, since_ms=since_ms)
        return [event.id.encode() for event in read_events(client, keyspace, [OPERATORS], query)]
    except RedisError:
        return []


def refusal(plan: UndoPlan) -> OperationError:
    """Why *plan* is not carried out."""
    blocked, count = len(plan.blocked), len(plan.keys)
    which = "1 key" if count == 1 else f"{blocked} of {count} keys"
    conflicts = [
        conflict for key in plan.blocked for conflict in key.conflicts if not conflict.is_forced
    ]
    helps = ["`--force KEY` overrides a conflict"] * any(
        not conflict.is_final for conflict in conflicts
    )
    helps.append("`--skip KEY` leaves a key out")
    if any(conflict.kind is ConflictKind.UNVALIDATED for conflict in conflicts):
        helps.append(HELP)
    if any(conflict.kind is ConflictKind.NOT_RECORDED for conflict in conflicts):
        helps.append("with `before_images` in the policy, later changes can be undone")
    return OperationError(
        "undo-refused",
        f"{which} cannot be restored; nothing was undone",
        help="; ".join(helps),
    )


def _words(plans: Sequence[KeyPlan]) -> Iterator[bytes | str]:
    """The words of `undo.lua` for each key."""
    for plan in plans:
        yield plan.key
        yield plan.now.digest
        yield _expiry(plan.now.expires_ms)
        if plan.action is Action.REMOVE or plan.image is None or plan.image.content is None:
            yield from ("", "", "")
        else:
            yield from (_expiry(plan.image.expires_ms), *plan.image.content)


def _expiry(expires_ms: int | None) -> bytes:
    return _NO_EXPIRY if expires_ms is None else b"%d" % expires_ms


def _keys(keys: Sequence[bytes]) -> str:
    shown = ", ".join(f"`{_text(key)}`" for key in keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
