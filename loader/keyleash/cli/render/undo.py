"""Render an undo plan as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from keyleash.audit.describe import (
    action_text,
    conflict_label,
    conflict_reason,
    short_value,
    value_as_json,
)
from keyleash.audit.undo import untrusted_text
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.terminal import print_note
from keyleash.text import counted, json_bytes, json_object, printable, without_tokens

if TYPE_CHECKING:
    from keyleash.audit.undo import Conflict, KeyPlan, UndoPlan, UndoResult, UndoStep


MAX_BLAMED = 20
"""Maximum number of changes by others per conflict in JSON."""
MAX_OTHERS = 5
"""Maximum number of other keys in the note about them."""


def print_plan(plan: UndoPlan) -> None:
    """Print the action on each key, and its conflicts."""
    print_table(
        [
            Column("key", fold=True),
            Column("action"),
            Column("before", fold=True),
            Column("now", fold=True),
        ],
        (
            [
                printable(item.key),
                action_text(item),
                short_value(item.target, plan.time_ms),
                short_value(item.current, plan.time_ms),
            ]
            for item in plan.keys
        ),
    )
    for item in plan.keys:
        for conflict in item.conflicts:
            _print_conflict(item, conflict)
    if plan.others:
        named = ", ".join(f"`{printable(key)}`" for key in plan.others[:MAX_OTHERS])
        more = f" and {len(plan.others) - MAX_OTHERS} more" if plan.others[MAX_OTHERS:] else ""
        print_note(f"note: the same events changed {named}{more} too, which stay as they are")
    say_untrusted(plan.untrusted)


def say_untrusted(untrusted: Mapping[str, int]) -> None:
    """Report the events that are left out, on standard error."""
    if untrusted:
        print_note(
            f"note: untrusted events are left out: {untrusted_text(untrusted)};"
            " no policy of their time grants the identity their keys"
        )


def _print_conflict(plan: KeyPlan, conflict: Conflict) -> None:
    if plan.is_skipped:
        return
    label = click.style(conflict_label(conflict), fg="yellow" if conflict.is_forced else "red")
    colon = "" if conflict.kind in {"changed", "unverified"} else ":"
    click.echo(f"{label}: `{printable(plan.key)}`{colon} {conflict_reason(plan, conflict)}")


def plan_as_json(plan: UndoPlan, undone: UndoResult | None) -> dict[str, Any]:
    """Return the plan and its result for JSON."""
    return {
        "keys": [_key(item) for item in plan.keys],
        **json_object(plan, "others", "untrusted"),
        "blocked": len(plan.blocked),
        "undone": undone
        and {
            **json_object(undone, "correlation", "events"),
            "restored": len(undone.restored),
            "removed": len(undone.removed),
        },
    }


def _key(plan: KeyPlan) -> dict[str, Any]:
    return {
        "key": json_bytes(plan.key),
        "action": "blocked" if plan.is_blocked else str(plan.action),
        "blocked": plan.is_blocked,
        "before": value_as_json(plan.target),
        "now": value_as_json(plan.current),
        "events": [_step(step) for step in plan.steps],
        "conflicts": [
            {
                **json_object(conflict, "kind", "forced=is_forced"),
                "message": conflict_reason(plan, conflict),
                "by": [_step(step) for step in conflict.by[:MAX_BLAMED]],
            }
            for conflict in plan.conflicts
        ],
    }


def _step(step: UndoStep) -> dict[str, Any]:
    actor = ("actor",) if step.actor else ()
    fields = json_object(step, "event", "time_ms", "identity", "token", "correlation", *actor)
    return {**fields, "ops": [without_tokens(op) for op in step.ops]}


def summary(undone: UndoResult) -> str:
    """Return the result of an undo in one line."""
    parts = []
    if undone.restored:
        parts.append(f"{counted(len(undone.restored), 'key')} restored")
    if undone.removed:
        parts.append(f"{counted(len(undone.removed), 'key')} removed")
    return ", ".join(parts)
