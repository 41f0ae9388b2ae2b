"""`keyleash freeze` and `keyleash thaw`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from keyleash.cli.nodes import show_nodes, wait_option
from keyleash.cli.options import (
    IDENTITY,
    as_duration,
    example,
    json_option,
    require_consent,
    yes_option,
)
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_note
from keyleash.errors import OperationError
from keyleash.policy.problems import SHOWN_BLOCKS, fold, some
from keyleash.store.state import check_reason
from keyleash.text import clock_time, counted, distance, iso_time, printable, span

if TYPE_CHECKING:
    from keyleash.operator.suspension import FreezeResult, Frozen

SECOND = timedelta(seconds=1)


@click.command(
    "freeze",
    epilog=example('keyleash freeze agent-runner --for 30m --reason "incident 4107: bad writes"'),
)
@click.argument("identities", nargs=-1, metavar="[IDENTITY]...", type=IDENTITY)
@click.option(
    "--for",
    "duration",
    metavar="DURATION",
    callback=as_duration,
    help="Duration, such as `30m`.  [default: until `keyleash thaw`]",
)
@click.option(
    "--reason", required=True, help="Reason, included in every denial; must not hold a secret."
)
@wait_option
@yes_option
@json_option
@pass_settings
def freeze_(
    settings: Settings,
    identities: tuple[str, ...],
    duration: timedelta | None,
    reason: str,
    wait: bool,
    yes: bool,
) -> int:
    """Suspend identities: every call is denied, starting with the next one.

    Without a name, suspends every identity after confirmation. The change is atomic: if a name
    is unknown, no identity is suspended. Tokens stay valid. A freeze never shortens an existing
    one; `thaw` ends it.
    """
    check_reason(reason)
    ends = "until `keyleash thaw`" if duration is None else f"for {span(duration // SECOND)}"
    _confirm_all(settings, identities, yes, "freeze", f"every agent stops {ends}")
    with settings.changing("look at `keyleash status`"):
        result = settings.operator.freeze(*identities, reason=reason, duration=duration)
    _show(settings, result, _frozen_status)
    return show_nodes(settings, result, wait=wait)


@click.command("thaw", epilog=example("keyleash thaw agent-runner"))
@click.argument("identities", nargs=-1, metavar="[IDENTITY]...", type=IDENTITY)
@wait_option
@yes_option
@json_option
@pass_settings
def thaw_(settings: Settings, identities: tuple[str, ...], wait: bool, yes: bool) -> int:
    """Resume suspended identities.

    Without a name, resumes every identity after confirmation. Also ends the suspension by a
    circuit breaker, and resets its count.
    """
    effect = "every suspended identity resumes, also those that a circuit breaker suspended"
    _confirm_all(settings, identities, yes, "thaw", effect)
    with settings.changing("look at `keyleash status`"):
        result = settings.operator.thaw(*identities)
    _show(settings, result, _thawed_status)
    return show_nodes(settings, result, wait=wait)


def _confirm_all(
    settings: Settings, identities: tuple[str, ...], yes: bool, verb: str, effect: str
) -> None:
    if identities:
        return
    settings.operator.identities()
    if not yes:
        print_note(effect)
    if not require_consent(f"{verb} every identity on {settings.shown_url}?", yes):
        raise OperationError("declined", "nothing was changed")


def _show(settings: Settings, result: FreezeResult, status: Callable[[Frozen, int], str]) -> None:
    effective_ms = result.effective_us // 1000
    if settings.json:
        print_json(result)
        return
    if not result.identities:
        print_note("no identity is active")
        return
    few = 0 if len(result.identities) > SHOWN_BLOCKS else SHOWN_BLOCKS

    def rest(item: Frozen) -> tuple[str, str]:
        return status(item, effective_ms), printable(item.reason)

    print_table(
        [Column("identity", fold=True), Column("now"), Column("reason", fold=True)],
        (
            [some([item.identity for item in items], 1), *rest(items[0])]
            for items in fold(result.identities, rest, few)
        ),
    )
    if changed := sum(item.changed for item in result.identities):
        where = "at reached nodes " if result.not_reached else ""
        at = f"{where}{iso_time(effective_ms)}, control event {result.event}"
        print_note(f"{counted(changed, 'identity')} changed, effective {at}")
    else:
        print_note("nothing changed")


def _frozen_status(frozen: Frozen, now_ms: int) -> str:
    until = "until `thaw`"
    if frozen.until_ms is not None:
        until = f"until {clock_time(frozen.until_ms)} ({distance(frozen.until_ms, now_ms)})"
    return f"suspended {until}" if frozen.changed else f"unchanged, suspended {until}"


def _thawed_status(frozen: Frozen, _now_ms: int) -> str:
    return "resumed" if frozen.changed else "was not suspended"
