"""`keyleash undo`: restore keys to their values before some events."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from keyleash.audit.undo import UndoSelection, apply_undo, blocked_error, plan_undo
from keyleash.cli.audit_selection import correlation_id, key_pattern, time_range
from keyleash.cli.options import (
    IDENTITY,
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
from keyleash.errors import (
    OperationError,
    UsageError,
)
from keyleash.store.token import without_tokens
from keyleash.text import counted, iso_time, printable

if TYPE_CHECKING:
    from keyleash.audit.undo import UndoPlan, UndoResult, UndoSelection
    from keyleash.policy.model import Pattern


class GivenKeys:
    """Keys named on the command line: as they are, or as they are printed."""

    def __init__(self, given: Sequence[str]) -> None:
        self._unmet = dict.fromkeys(given)
        self._given = frozenset(given)
        self._raw = {os.fsencode(item): item for item in given}

    def __contains__(self, key: object) -> bool:
        assert isinstance(key, bytes)  # noqa: S101 - keys are
        said = self._raw.get(key) or printable(key)
        if said not in self._given:
            return False
        self._unmet.pop(said, None)
        return True

    def require_met(self) -> None:
        """
        See that each one was looked for.

        Raises:
            UsageError: one is no key of the plan.
        """
        for item in self._unmet:
            raise UsageError(
                f"`{printable(item)}` is no key that this would undo",
                help="see `--dry-run` for the keys",
            )


@click.command(epilog=example("keyleash undo --correlation req-7f3a --dry-run"))
@click.option(
    "--event", "events", metavar="ID", multiple=True, help="This event, a batch whole; repeat."
)
@click.option(
    "--correlation",
    metavar="ID",
    callback=correlation_id,
    help="All events with this correlation id.",
)
@click.option("--identity", metavar="NAME", type=IDENTITY, help="All that it did since --since.")
@click.option(
    "--key",
    "pattern",
    metavar="PATTERN",
    callback=key_pattern,
    help="All that was done to keys that match since --since.",
)
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
@click.option("--skip", metavar="KEY", multiple=True, help="Leave KEY as it is; repeat.")
@click.option(
    "--across-policies",
    is_flag=True,
    help="Undo also what the active policy no longer lets the identity do.",
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
    """Give keys back what they held before some events.

    Each key gets what it held before the oldest of these events, with the time that its expiry
    has left. Shows that, asks, and does all of it at once, or nothing: a key that others changed
    since is a conflict, and so is one that the active policy no longer grants. What it does is
    recorded, so that it can be undone by its own correlation id. Needs `before_images` in the
    policy.
    """
    selection = _selection(settings, events, correlation, identity, pattern, (since, until))
    forced, skipped = GivenKeys(force), GivenKeys(skip)
    plan = plan_undo(
        settings.client,
        selection,
        forced=forced,
        skipped=skipped,
        across_policies=across_policies,
        keyspace=settings.keyspace,
    )
    forced.require_met()
    skipped.require_met()
    if not settings.json:
        print_plan(plan)
    if plan.blocked and not settings.json:
        raise blocked_error(plan)
    undone = None if dry_run or plan.blocked else _go(settings, plan, selection, yes)
    if settings.json:
        print_json(plan_as_json(plan, undone))
        if plan.blocked:
            sys.exit(1)


def _go(settings: Settings, plan: UndoPlan, selection: UndoSelection, yes: bool) -> UndoResult:

    if plan.changes and not require_consent(
        f"change {counted(len(plan.changes), 'key')} on {settings.shown_url}?", yes
    ):
        raise OperationError("declined", "nothing was undone")
    undone = apply_undo(
        settings.client,
        plan,
        description=_described(selection),
        actor=settings.actor,
        keyspace=settings.keyspace,
    )
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

    since, _until = times
    if events and any(item is not None for item in (correlation, identity, pattern, *times)):
        raise UsageError("`--event` says all: nothing else can narrow it")
    if not events and (correlation, identity, pattern) == (None, None, None):
        raise UsageError(
            "nothing is chosen",
            help="give `--event ID`, `--correlation ID`, or `--identity NAME` or `--key PATTERN`"
            " with `--since TIME`",
        )
    if not events and correlation is None and since is None:
        raise UsageError("`--identity` and `--key` need `--since`", help="such as `--since 10m`")
    return UndoSelection(events, correlation, identity, pattern, *time_range(settings, *times))


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
