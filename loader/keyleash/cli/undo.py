"""`keyleash undo`: restore keys to their values before some events."""

from __future__ import annotations

from typing import Any

import click

from keyleash.audit.undo.apply import UndoResult, blocked_error
from keyleash.audit.undo.key_plans import UndoPlan, plan_selected
from keyleash.cli.derive import options_of
from keyleash.cli.options import (
    FILE,
    example,
    full_option,
    require_consent,
    with_settings,
    yes_option,
)
from keyleash.cli.progress import waiting
from keyleash.cli.render.undo import print_plan
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_note, read_text
from keyleash.errors import UsageError
from keyleash.errors.operations import FAILED
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.text import counted


@click.command(epilog=example("keyleash undo --correlation req-7f3a --dry-run"))
@options_of(plan_selected, "events correlation identity key since until")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show the plan; exit code 1 if it has conflicts, or if nothing can be restored.",
)
@options_of(plan_selected, "force skip skip_conflicts across_policies")
@click.option(
    "--skip-from",
    metavar="FILE",
    type=FILE,
    help="Leave the keys and patterns in FILE as they are, one a line; `-` is standard input.",
)
@click.option(
    "--all-identities",
    is_flag=True,
    help="With --yes: allow an undo of changes by several identities.",
)
@full_option
@yes_option
@with_settings
def undo(
    settings: Settings,
    *,
    dry_run: bool,
    full: bool,
    yes: bool,
    skip: tuple[str, ...],
    skip_from: str | None,
    all_identities: bool,
    **selection: Any,
) -> int:
    """Restore keys to their values before some events.

    Selects one event by --event, or all that match --correlation, --identity and --key; the latter
    two need --since. Each key gets its value before the oldest selected event, with the rest of its
    lifetime. Shows the plan (of more than 50 keys, a summary), asks, and applies all of it
    atomically, or nothing. A key that others changed since, or that the active policy no longer
    grants, is a conflict. The undo is recorded, and can be undone by its own correlation id. Needs
    `before_images` in the policy.

    Agents choose correlation ids, so the plan names the identities: --identity selects one, and
    with --yes an undo of several needs --all-identities.
    """
    if skip_from is not None:
        lines = read_text(skip_from)[1].split("\n")
        skip += tuple(line for line in lines if line.strip() and not line.startswith("#"))
    with waiting(settings):
        plan = settings.operator.undo.plan(skip=skip, **selection)
    settings.name_server()
    if not settings.json:
        print_plan(plan, full=full)
    if plan.blocked and not settings.json:
        raise blocked_error(plan)
    if len(plan.identities) > 1 and yes and not (all_identities or dry_run or plan.blocked):
        raise UsageError(
            f"these are changes by {listing(plan.identities, SHOWN_IDENTITIES)}",
            help="select one with `--identity`, or add `--all-identities`",
        )
    undone = None if dry_run or plan.blocked else _apply(settings, plan, yes)
    if settings.json:
        settings.print_change({**plan.to_dict(), "undone": undone})
    return 0 if plan.changes and not plan.blocked else FAILED


def _apply(settings: Settings, plan: UndoPlan, yes: bool) -> UndoResult:
    if plan.changes:
        by = f", by {listing(plan.identities, SHOWN_IDENTITIES)}" * (len(plan.identities) > 1)
        question = f"change {counted(len(plan.changes), 'key')}{by}, on {settings.shown_url}?"
        require_consent(question, yes, "nothing was undone")
    undone = settings.operator.undo.apply(plan)
    left = sum(key.is_skipped for key in plan.keys)
    print_note(f"{undone}" + f"; {counted(left, 'key')} left out" * bool(left))
    print_note(f"to revert this undo: keyleash undo --correlation {undone.correlation}")
    return undone
