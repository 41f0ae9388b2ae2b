"""`keyleash freeze` and `keyleash thaw`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from keyleash.cli.derive import command
from keyleash.cli.options import require_consent
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_note
from keyleash.operator.suspension import FreezeResult, Frozen, freeze, thaw
from keyleash.policy.problems import SHOWN_BLOCKS, fold, some
from keyleash.text import clock_time, counted, distance, iso_time, printable, span

SECOND = timedelta(seconds=1)


def _confirm_freeze(
    settings: Settings, *, yes: bool, identities: tuple[str, ...], duration: Any, **_: Any
) -> None:
    ends = "until `keyleash thaw`" if duration is None else f"for {span(duration // SECOND)}"
    _confirm_all(settings, identities, yes, "freeze", f"every agent stops {ends}")


@command(
    freeze,
    example='keyleash freeze agent-runner --for 30m --reason "incident 4107: bad writes"',
    advice="look at `keyleash status`",
    confirm=_confirm_freeze,
    waits=True,
    options="identities duration reason",
)
def freeze_(_settings: Settings, result: FreezeResult) -> None:
    """Suspend identities: every call is denied, starting with the next one.

    Without a name, suspends every identity after confirmation. The change is atomic: if a name
    is unknown, no identity is suspended. Tokens stay valid. A freeze never shortens an existing
    one; `thaw` ends it.
    """
    _show(result, _frozen_status)


def _confirm_thaw(settings: Settings, *, yes: bool, identities: tuple[str, ...], **_: Any) -> None:
    effect = "every suspended identity resumes, also those that a circuit breaker suspended"
    _confirm_all(settings, identities, yes, "thaw", effect)


@command(
    thaw,
    example="keyleash thaw agent-runner",
    advice="look at `keyleash status`",
    confirm=_confirm_thaw,
    waits=True,
)
def thaw_(_settings: Settings, result: FreezeResult) -> None:
    """Resume suspended identities.

    Without a name, resumes every identity after confirmation. Also ends the suspension by a
    circuit breaker, and resets its count.
    """
    _show(result, _thawed_status)


def _confirm_all(
    settings: Settings, identities: tuple[str, ...], yes: bool, verb: str, effect: str
) -> None:
    if identities:
        return
    settings.operator.identities()
    if not yes:
        print_note(effect)
    require_consent(f"{verb} every identity on {settings.shown_url}?", yes)


def _show(result: FreezeResult, status: Callable[[Frozen, int], str]) -> None:
    effective_ms = result.effective_us // 1000
    if not result.identities:
        print_note("no identity is active")
        return
    few = 0 if len(result.identities) > SHOWN_BLOCKS else SHOWN_BLOCKS

    def rest(item: Frozen) -> tuple[str, str]:
        return status(item, effective_ms), printable(item.reason)

    rows = (
        [some([item.identity for item in items], 1), *rest(items[0])]
        for items in fold(result.identities, rest, few)
    )
    print_table(columns("identity", "now", "reason", fold={"identity", "reason"}), rows)
    if changed := sum(item.changed for item in result.identities):
        where = "at reached nodes " if result.not_reached else ""
        at = f"{where}{iso_time(effective_ms)}, control event {result.event}"
        print_note(f"{counted(changed, 'identity')} changed, effective {at}")
    else:
        print_note("nothing changed")


def _frozen_status(frozen: Frozen, now_ms: int) -> str:
    ends = frozen.until_ms
    until = "`thaw`" if ends is None else f"{clock_time(ends)} ({distance(ends, now_ms)})"
    return f"{'' if frozen.changed else 'unchanged, '}suspended until {until}"


def _thawed_status(frozen: Frozen, _now_ms: int) -> str:
    return "resumed" if frozen.changed else "was not suspended"
