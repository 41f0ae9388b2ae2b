"""`keyleash status`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import chain
from typing import Any

import click
from redis import exceptions as redis_errors
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from keyleash.addons.status.identities import RECENT_S, IdentityStatus, LimitUse
from keyleash.addons.status.shards import LeasedLimit, ShardStatus
from keyleash.addons.status.snapshot import MEASURES, Snapshot
from keyleash.cli.failures import failure_of
from keyleash.cli.options import IDENTITY, all_option, as_duration, example, with_settings
from keyleash.cli.render.table import columns, console, fitting, show, table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import is_terminal, print_json, print_json_line, print_note, until_signal
from keyleash.errors import KeyleashError
from keyleash.errors.operations import FAILED
from keyleash.limits.counters import counter_of
from keyleash.operator.suspension import Suspension
from keyleash.policy.parse import active_policy
from keyleash.policy.problems import SHOWN_IDENTITIES, some
from keyleash.store.connect import NODE_TIMEOUT_S
from keyleash.store.records import ActivePolicy
from keyleash.text import clock_time, counted, distance, printable, short_digest, span


@click.command(epilog=example("keyleash status --watch"))
@click.argument("identities", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)
@click.option("--only", type=click.Choice(list(MEASURES)), help="Only identities that are so.")
@click.option("--sort", type=click.Choice(list(MEASURES)), help="The highest number first.")
@click.option("--limit", type=click.IntRange(1), help="Maximum number of identities.")
@all_option
@click.option("--watch", is_flag=True, help="Refresh in place until Ctrl-C or SIGTERM.")
@click.option(
    "--interval",
    metavar="DURATION",
    default="2s",
    callback=as_duration,
    help="Refresh interval of --watch.",
)
@with_settings
def status(
    settings: Settings,
    identities: Sequence[str],
    watch: bool,
    interval: timedelta,
    every: bool,
    **options: Any,
) -> int:
    """Show identities, tokens, limits and recent denials.

    `suspended` identities have no state or a suspension, `limited` ones a limit that is used up,
    `denied` ones recent denials, `due` ones a token to rotate. Of more identities than fit the
    screen, those are shown to which most of this applies, and --all shows each.

    The use of a budget is the calls in its open window, of a rate those in the last period, and of
    a rate with a burst the part of the burst in use. `oldest` is the age of the oldest live token,
    `due` if it exceeds the policy's `rotate_after`. `events` counts recorded calls; a batch is one,
    and `audit stats` counts commands. `denied` `2+1` is 2 entries and 1 repeat of them. `recent`
    counts the calls denied in the last five minutes.

    Exit code 1 if a node of a cluster does not answer.

    When output is not a terminal, --watch appends snapshots; with --json, one object per line.
    """
    is_whole = bool(settings.json or every or identities or options["limit"])

    def read(operator: Any) -> Snapshot:
        found: Snapshot = operator.status(*identities, **options)
        if is_whole:
            return found
        worst = list(found.identities)
        if not options["sort"]:
            worst.sort(key=lambda item: [x(item) for x in MEASURES.values()], reverse=True)
        cuts = [replace(found, identities=tuple(worst[:n])) for n in range(SHOWN_IDENTITIES + 1)]
        count = fitting(SHOWN_IDENTITIES, lambda count: snapshot_parts(settings, cuts[count]))
        return cuts[count] if count < len(worst) else found

    if watch:
        snapshots = _poll(settings, interval, read)
        first = next(snapshots)
        # On a terminal without cursor movement, `Live` shows nothing before the end.
        is_plain = settings.json or not is_terminal() or console().is_dumb_terminal
        with until_signal("stopped"):
            (_append if is_plain else _redraw)(settings, chain([first], snapshots))
        return 0
    snapshot = read(settings.operator)
    code = FAILED if snapshot.cluster is not None and snapshot.cluster.down else 0
    if settings.json:
        print_json({"server": settings.shown_url, **snapshot.to_dict()})
        return code

    show(*snapshot_parts(settings, snapshot))
    if snapshot.active is None:
        print_note("no policy is active")
        print_note("help: load one with `keyleash load FILE`")
    return code


PASSING = (redis_errors.RedisError, OSError, KeyleashError)
"""Errors that do not end a running watch, since the server may return."""


def _redraw(settings: Settings, snapshots: Iterator[Snapshot | str]) -> None:
    with Live(console=console(), auto_refresh=False, vertical_overflow="ellipsis") as live:
        for item in snapshots:
            if isinstance(item, Snapshot):
                last = item
            live.update(_screen(settings, last, "" if item is last else str(item)), refresh=True)


def _screen(settings: Settings, snapshot: Snapshot, error: str = "") -> RenderableType:
    parts = list(snapshot_parts(settings, snapshot))
    if snapshot.active is None:
        parts.append(Text("no policy is active"))
    at = Text(f"at         {clock_time(snapshot.now_ms)}; end with Ctrl-C", style="dim")
    # The second line: a small terminal shows only the first ones.
    parts.insert(
        1, Text(f"error      {error}; the last snapshot is shown", style="red") if error else at
    )
    return Group(*parts)


def _append(settings: Settings, snapshots: Iterator[Snapshot | str]) -> None:
    for item in snapshots:
        if isinstance(item, str):
            print_note(f"error: {item}")
        elif settings.json:
            print_json_line({"server": settings.shown_url, **item.to_dict()})
        else:
            show(Text(f"at         {clock_time(item.now_ms)}"))
            show(*snapshot_parts(settings, item))
            click.echo("no policy is active\n" if item.active is None else "")
        sys.stdout.flush()


def _poll(
    settings: Settings, interval: timedelta, read: Callable[[Any], Snapshot]
) -> Iterator[Snapshot | str]:
    """Yield a snapshot at each interval, or the error of one but the first."""
    yield read(settings.operator)
    # A server that does not answer must not look like one without changes.
    operator = settings.unconnected(NODE_TIMEOUT_S)
    while True:
        time.sleep(interval.total_seconds())
        try:
            yield read(operator)
        except PASSING as error:
            failure = failure_of(error, settings.shown_url, settings.operation)
            if failure is None:
                raise
            yield failure.message


BAR = 10
COLOURS = ((0.9, "red"), (0.7, "yellow"), (0.0, "green"))
"""The colour of a bar from a share of the limit on."""


def snapshot_parts(settings: Settings, snapshot: Snapshot) -> Iterator[RenderableType]:
    """Yield the lines and tables of a snapshot."""
    replica = f", replica of {snapshot.primary}" if snapshot.primary else ""
    yield Text(f"server     {settings.shown_url}{replica}")
    if snapshot.active is None:
        return
    yield from _head(snapshot, snapshot.active)
    if (cluster := snapshot.cluster) is not None:
        yield Text(
            f"cluster    {counted(cluster.nodes, 'node')}, {cluster.primaries} with slots; home"
            f" {cluster.home}, {cluster.home_operations} commands a second"
        )
        for node in cluster.down:
            yield Text(f"down       {node}: {printable(cluster.reasons[node])}", style="red")
        for name, lacking in cluster.lacking.items():
            text = f"scripts of {some(lacking, 5)}; clients load those that they call"
            yield Text(f"lacking    {name}: {text}", style="yellow")
    for identity in snapshot.identities:
        if identity.suspension is not None:
            text = _suspension_text(identity.suspension, snapshot.now_ms)
            yield Text(f"suspended  {identity.name} {text}", style="red")
    yield Text("")
    total = len(active_policy(snapshot.active.document).identities)
    if not snapshot.identities:
        yield Text(f"none of {counted(total, 'identity')} matches")
        return
    yield _identities(snapshot)
    if (first := next((item for item in snapshot.identities if item.folded), None)) is not None:
        entries, repeats = first.denied_length, first.folded
        text = f"{counted(entries, 'entry')} and {counted(repeats, 'repeat')} of them"
        yield Text(f"denied     {entries}+{repeats} is {text}", style="dim")
    if (count := len(snapshot.identities)) < total:
        yield Text(f"shown      {count} of {total} identities; `--all` shows each")
    yield Text("")
    yield _limits(snapshot)
    if any(identity.shards for identity in snapshot.identities):
        yield Text("")
        yield _leases(snapshot)
    if any(identity.denials for identity in snapshot.identities):
        yield Text("")
        yield _denials(snapshot)


def _head(snapshot: Snapshot, active: ActivePolicy) -> Iterator[Text]:
    when = f"{clock_time(active.activated_ms)} ({distance(active.activated_ms, snapshot.now_ms)})"
    yield Text(f"policy     {short_digest(active.digest)}, generation {active.generation}")
    yield Text(f"activated  {when} by {printable(active.actor)}")


def _suspension_text(suspension: Suspension, now_ms: int) -> str:
    until_ms = suspension.until_ms
    text = "until `keyleash thaw`"
    if until_ms is not None:
        text = f"until {clock_time(until_ms)} ({distance(until_ms, now_ms)})"
    if suspension.by:
        text += f" by {printable(suspension.by)}"
    return f"{text}: {printable(suspension.reason)}" if suspension.reason else text


def _identities(snapshot: Snapshot) -> RenderableType:
    names = ["identity", "kind", "state", "tokens", "oldest", "events", "denied", "recent"]
    rows = (_identity(item, snapshot.now_ms) for item in snapshot.identities)
    numbers = {"tokens", "events", "denied", "recent"}
    return table(columns(*names, right=numbers, fold={"identity"}), rows)


def _identity(status: IdentityStatus, now_ms: int) -> Sequence[str | Text]:
    folded = f"+{status.folded}" if status.folded else ""
    return [
        status.name,
        status.kind,
        Text(status.word, style="" if status.word == "active" else "red"),
        str(status.tokens.live),
        _oldest(status, now_ms),
        str(status.events),
        f"{status.denied_length}{folded}",
        Text(str(status.recent), style="yellow" if status.recent else ""),
    ]


def _oldest(status: IdentityStatus, now_ms: int) -> Text:
    oldest = status.tokens.oldest
    if oldest is None:
        return Text("-")
    age = span(max(0, now_ms - oldest.issued_ms) // 1000)
    return Text(f"{age}, due", style="yellow") if status.oldest_is_due else Text(age)


def _limits(snapshot: Snapshot) -> RenderableType:
    rows = [
        _limit(identity.name, use, snapshot.now_ms)
        for identity in snapshot.identities
        for use in identity.limits
    ]
    if not rows:
        return Text("no identity that is shown has a limit")
    names = ("identity", "limit", "use", "used", "allows", "resets")
    return table(columns(*names, right={"used"}, fold={"identity", "allows"}), rows)


def _limit(identity: str, use: LimitUse, now_ms: int) -> Sequence[str | Text]:
    per = "" if use.per == "identity" else f", each {use.per} apart"
    resets = distance(use.resets_ms, now_ms) if use.resets_ms is not None else ""
    shown = counter_of(use.name).rounded
    used = "-" if use.used is None else f"{shown(use.used)}/{shown(use.of)}"
    return [identity, use.name, bar(use.share), used, use.allows + per, resets]


def bar(share: float | None) -> Text:
    """Return a bar of the used share: visible from 1 % on, and only full use fills it."""
    if share is None:
        return Text("")
    filled = min(BAR - 1, -(-int(share * 100) * BAR // 100)) if share < 1 else BAR
    colour = next(colour for bound, colour in COLOURS if share >= bound)
    return Text("#" * filled, style=colour) + Text("." * (BAR - filled), style="dim")


def _leases(snapshot: Snapshot) -> RenderableType:
    """Return the leases of all shards, a row for each limit."""
    numbers = ("granted", "unspent", "stranded")
    names = ("identity", "shard", "node", "limit", *numbers, "last grant")
    rows = (
        [identity.name, *_lease(shard, limit, snapshot.now_ms)]
        for identity in snapshot.identities
        for shard in identity.shards or ()
        for limit in shard.limits or (None,)
    )
    return table(columns(*names, right=numbers, fold={"identity"}), rows)


def _lease(shard: ShardStatus, limit: LeasedLimit | None, now_ms: int) -> Sequence[str | Text]:
    note = ", unread" if shard.reason else ", suspended" if shard.suspended else ""
    node = Text(f"{shard.node}{note}", style="red" if note else "")
    units = ["-"] * 4
    if limit is not None:
        numbers = (limit.granted, limit.unspent, limit.stranded)
        shown = counter_of(limit.name).rounded
        units = [limit.name, *("-" if number is None else shown(number) for number in numbers)]
    when = distance(shard.granted_ms, now_ms) if shard.granted_ms else "-"
    return [shard.tag, node, *units, when]


def _denials(snapshot: Snapshot) -> RenderableType:
    rows = [
        [identity.name, code, str(of_code.count), distance(of_code.last_ms, snapshot.now_ms)]
        for identity in snapshot.identities
        for code, of_code in sorted(identity.denials.items(), key=lambda row: -row[1].count)
    ]
    names = ("identity", f"denied in the last {span(RECENT_S)}", "times", "last")
    return table(columns(*names, right={"times"}, fold={"identity"}), rows)
