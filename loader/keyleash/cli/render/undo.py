"""Render an undo plan as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from keyleash.audit.describe import short_value
from keyleash.audit.undo import untrusted_text
from keyleash.audit.undo.plan import action_text, conflict_label, conflict_reason
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.terminal import print_note
from keyleash.text import printable

if TYPE_CHECKING:
    from keyleash.audit.undo import Conflict, KeyPlan, UndoPlan


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
    if plan.nodes:
        print_note(
            "note: the keys of each node change in one step, one node after the other:"
            f" {', '.join(plan.nodes)}"
        )
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
    colour = "red" if plan.is_blocked and not conflict.is_forced else "yellow"
    label = click.style(conflict_label(plan, conflict), fg=colour)
    colon = "" if conflict.kind in {"changed", "unverified"} else ":"
    click.echo(f"{label}: `{printable(plan.key)}`{colon} {conflict_reason(plan, conflict)}")
