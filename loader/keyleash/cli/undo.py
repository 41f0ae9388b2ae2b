"""`keyleash undo`: restore keys to their values before some events."""

from __future__ import annotations

import os
import sys
from collections.abc import Container
from typing import TYPE_CHECKING

import click

from keyleash.audit.undo import UndoSelection, apply_undo, blocked_error, plan_undo
from keyleash.cli.audit_selection import correlation_option, identity_option, key_option, time_range
from keyleash.cli.options import (
    Moment,
    example,
    json_option,
    require_consent,
    since_option,
    until_option,
    yes_option,
)
from keyleash.cli.render.undo import plan_as_json, print_plan, summary
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_note
from keyleash.errors import OperationError, UsageError
from keyleash.text import counted, iso_time, printable, without_tokens

if TYPE_CHECKING:
    from keyleash.audit.undo import UndoPlan, UndoResult
    from keyleash.policy.model import Pattern


class GivenKeys(Container[bytes]):
    """Keys named on the command line: literal, or escaped as in the output."""

    def __init__(self, given: tuple[str, ...]) -> None:
        self._given = given

    def __contains__(self, key: object) -> bool:
        assert isinstance(key, bytes)  # noqa: S101 - keys are
        return not _spellings(key).isdisjoint(self._given)

    def require_planned(self, plan: UndoPlan) -> None:
        """
        Check that the plan has each key.

        Raises:
            UsageError: A key is not in the plan.
        """
        planned = {spelling for item in plan.keys for spelling in _spellings(item.key)}
        for item in self._given:
            if item not in planned:
                raise UsageError(
                    f"`{printable(item)}` is not a key of this undo",
                    help="see `--dry-run` for the keys",
                )


def _spellings(key: bytes) -> set[str]:
    return {os.fsdecode(key), printable(key)}


@click.command(epilog=example("keyleash undo --correlation req-7f3a --dry-run"))
@click.option(
    "--event", "events", metavar="ID", multiple=True, help="One event or batch; repeatable."
)
@correlation_option
@identity_option
@key_option
@since_option
@until_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show the plan; exit code 1 if it has conflicts, or if nothing can be restored.",
)
@click.option(
    "--force", metavar="KEY", multiple=True, help="Override conflicts of KEY; repeatable."
)
@click.option("--skip", metavar="KEY", multiple=True, help="Leave KEY as it is; repeatable.")
@click.option(
    "--across-policies",
    is_flag=True,
    help="Undo also changes that the active policy no longer allows to the identity.",
)
@yes_option
@json_option
@pass_settings
def undo(
    settings: Settings,
    events: tuple[str, ...],
    correlation: str | None,
    identity: str | None,
    pattern: Pattern | None,
    since: Moment | None,
    until: Moment | None,
    dry_run: bool,
    force: tuple[str, ...],
    skip: tuple[str, ...],
    across_policies: bool,
    yes: bool,
) -> None:
    """Restore keys to their values before some events.

    Selects one event by --event, or all that match --correlation, --identity and --key; the latter
    two need --since. Each key gets its value before the oldest selected event, with the rest of its
    lifetime. Shows the plan, asks, and applies all of it atomically, or nothing. A key that others
    changed since, or that the active policy no longer grants, is a conflict. The undo is recorded,
    and can be undone by its own correlation id. Needs `before_images` in the policy.
    """
    selection = _selection(settings, events, correlation, identity, pattern, (since, until))
    forced, skipped = GivenKeys(force), GivenKeys(skip)
    plan = plan_undo(
        settings.store, selection, forced=forced, skipped=skipped, across_policies=across_policies
    )
    forced.require_planned(plan)
    skipped.require_planned(plan)
    if not settings.json:
        print_plan(plan)
    if plan.blocked and not settings.json:
        raise blocked_error(plan)
    undone = None if dry_run or plan.blocked else _apply(settings, plan, selection, yes)
    if settings.json:
        print_json(plan_as_json(plan, undone))
        if plan.blocked:
            sys.exit(1)


def _apply(settings: Settings, plan: UndoPlan, selection: UndoSelection, yes: bool) -> UndoResult:
    if plan.changes and not require_consent(
        f"change {counted(len(plan.changes), 'key')} on {settings.shown_url}?", yes
    ):
        raise OperationError("declined", "nothing was undone")
    undone = apply_undo(settings.store, plan, description=_described(selection))
    print_note(summary(undone))
    print_note(f"to revert this undo: keyleash undo --correlation {undone.correlation}")
    return undone


def _selection(
    settings: Settings,
    events: tuple[str, ...],
    correlation: str | None,
    identity: str | None,
    pattern: Pattern | None,
    times: tuple[Moment | None, Moment | None],
) -> UndoSelection:
    filters = (correlation, identity, pattern)
    if events and any(item is not None for item in (*filters, *times)):
        raise UsageError("`--event` cannot be combined with other selections")
    if not events and filters == (None, None, None):
        raise UsageError(
            "no events are selected",
            help="give `--event ID`, `--correlation ID`, or `--identity NAME` or `--key PATTERN`"
            " with `--since TIME`",
        )
    if not events and correlation is None and times[0] is None:
        raise UsageError("`--identity` and `--key` need `--since`", help="such as `--since 10m`")
    return UndoSelection(events, *filters, *time_range(settings, *times))


def _described(selection: UndoSelection) -> str:
    """Return the selection as command-line options, for the audit log."""
    parts = [f"--event {event}" for event in selection.events]
    for option, value in (
        ("--correlation", selection.correlation),
        ("--identity", selection.identity),
        ("--key", selection.pattern.source if selection.pattern else None),
        ("--since", None if selection.since_ms is None else iso_time(selection.since_ms)),
        ("--until", None if selection.until_ms is None else iso_time(selection.until_ms)),
    ):
        if value is not None:
            parts.append(f"{option} {value}")
    # Agents choose correlation ids, so one may be a token.
    return without_tokens(" ".join(parts))
