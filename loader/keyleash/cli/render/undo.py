"""Render an undo plan as a table."""

from __future__ import annotations

import click

from keyleash.audit.entry_text import short_value
from keyleash.audit.undo.key_plans import (
    Conflict,
    KeyPlan,
    UndoPlan,
    action_text,
    conflict_label,
    conflict_reason,
)
from keyleash.audit.undo.selection import dropped_index
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.terminal import print_note
from keyleash.policy.problems import FEW, SHOWN_BLOCKS, fold, listing, some
from keyleash.text import counted, printable

MAX_OTHERS = 5
"""Maximum number of keys in a list on one line."""


def print_plan(plan: UndoPlan, *, full: bool) -> None:
    """Print the action on each key, and its conflicts; of many keys a summary, unless *full*."""
    is_summary = not full and len(plan.keys) > SHOWN_BLOCKS
    names = ("key", "identity", "action", "before", "now")[: 3 if is_summary else None]
    rows = (
        [
            some([printable(item.key) for item in items], 1),
            _identities(items[0]),
            action_text(items[0]),
            short_value(items[0].target, plan.time_ms),
            short_value(items[0].current, plan.time_ms),
        ][: len(names)]
        for items in fold(
            plan.keys,
            lambda item: (action_text(item), _identities(item)),
            0 if is_summary else len(plan.keys),
        )
    )
    print_table(columns(*names, fold={"key", "before", "now"}), rows)
    found = [(key, conflict) for key in plan.keys for conflict in key.conflicts]
    for (key, conflict), *others in fold(found, _kind, FEW if is_summary else len(found)):
        _print_conflict(key, conflict)
        if others:
            listed = listing((printable(other.key) for other, _ in others), MAX_OTHERS)
            click.echo(f"  the same kind, at {counted(len(others), 'other key')}: {listed}")
    if is_summary:
        print_note("note: a summary, since there are many keys; `--full` shows each")
    if plan.others:
        named = listing(map(printable, plan.others), MAX_OTHERS)
        print_note(f"note: the same events changed {named} too, which stay as they are")
    for drop in plan.drops:
        count = counted(drop.documents or 0, "document")
        print_note(f"note: {count} went with {dropped_index(drop)}; undo cannot restore them")
    if plan.nodes:
        print_note(
            "note: the keys of each node change in one step, one node after the other:"
            f" {', '.join(plan.nodes)}"
        )


def _identities(plan: KeyPlan) -> str:
    return ", ".join(dict.fromkeys(step.identity for step in plan.steps))


def _kind(found: tuple[KeyPlan, Conflict]) -> tuple[object, ...]:
    """Return the reason of a conflict without the events and times of its key."""
    key, conflict = found
    by = frozenset(step.identity for step in conflict.by)
    return conflict_label(key, conflict), conflict.kind, conflict.identities, by


def _print_conflict(plan: KeyPlan, conflict: Conflict) -> None:
    colour = "red" if plan.is_blocked and not conflict.is_forced else "yellow"
    label = click.style(conflict_label(plan, conflict), fg=colour)
    colon = "" if conflict.kind in {"changed", "unverified"} else ":"
    click.echo(f"{label}: `{printable(plan.key)}`{colon} {conflict_reason(plan, conflict)}")
