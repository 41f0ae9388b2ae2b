"""Going the way back: all keys in one atomic script, or none."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyleash.audit.undo.plan import Action, KeyPlan, UndoPlan
from keyleash.compiler.templates import operator_script
from keyleash.errors import ChangedMeanwhileError, NothingToUndoError, UndoRefusedError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import OPERATORS, Keyspace

_NO_EXPIRY = b"-1"


@dataclass(frozen=True, slots=True)
class Undone:
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
) -> Undone:
    """
    Do what *plan* says, and record it so that it can be undone.

    Args:
        client: A redis-py client of an operator, `decode_responses` off.
        plan: As `plan_undo` made it.
        description: What was asked for, for the control stream.
        actor: Who does it, for the record.
        keyspace: Where the control keys are; the public prefix if None.

    Raises:
        UndoRefusedError: something is in the way, or the server does not take it.
        NothingToUndoError: every key holds already what it held.
        ChangedMeanwhileError: a key was changed since the plan was made.
    """
    keyspace = keyspace or Keyspace()
    if plan.blocked:
        raise refusal(plan)
    if not plan.changes:
        raise NothingToUndoError("every key holds already what it held before")
    undo = f"undo-{secrets.token_hex(6)}"
    steps = plan.steps
    header = (actor, undo, description, steps[0].event, steps[-1].event)
    digest = client.script_load(operator_script("undo.lua", keyspace))
    word, *said = client.evalsha(digest, 0, *header, *_words(plan.changes))
    match word:
        case b"CHANGED":
            raise ChangedMeanwhileError(
                f"{_keys(said)} changed since the plan was made; nothing was undone",
                help="plan it again",
            )
        case b"REFUSED":
            key, error = said
            raise UndoRefusedError(
                f"the server does not take {_keys([key])}: {_text(error)}; nothing was undone"
            )
    return Undone(
        correlation=undo,
        events=tuple(f"{OPERATORS}/{_text(entry_id)}" for entry_id in said),
        restored=tuple(one.key for one in plan.changes if one.action is Action.RESTORE),
        removed=tuple(one.key for one in plan.changes if one.action is Action.REMOVE),
    )


def refusal(plan: UndoPlan) -> UndoRefusedError:
    """Why *plan* is not carried out."""
    blocked, count = len(plan.blocked), len(plan.keys)
    noun = "key" if count == 1 else "keys"
    return UndoRefusedError(
        f"{blocked} of {count} {noun} cannot be given back what they held; nothing was undone",
        help="`--force KEY` overrides a conflict, `--skip KEY` leaves a key out",
    )


def _words(plans: Sequence[KeyPlan]) -> Iterator[bytes | str]:
    """The words of `undo.lua` for each key."""
    for plan in plans:
        yield plan.key
        yield plan.now.digest
        yield _expiry(plan.now.expires_ms)
        if plan.action is Action.REMOVE or plan.image is None or plan.image.held is None:
            yield from ("", "", "")
        else:
            yield from (_expiry(plan.image.expires_ms), *plan.image.held)


def _expiry(expires_ms: int | None) -> bytes:
    return _NO_EXPIRY if expires_ms is None else b"%d" % expires_ms


def _keys(keys: Sequence[bytes]) -> str:
    shown = ", ".join(f"`{_text(key)}`" for key in keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
