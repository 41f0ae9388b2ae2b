"""Render a snapshot as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from keyleash.cli.render.table import Column, table
from keyleash.cli.settings import Settings
from keyleash.limits.counters import counter_of
from keyleash.operator.suspension import Suspension
from keyleash.status.identities import RECENT_S, IdentityStatus, LimitUse, document_policy
from keyleash.status.shards import LeasedLimit, ShardStatus
from keyleash.status.snapshot import Snapshot
from keyleash.store.records import ActivePolicy
from keyleash.text import clock_time, counted, distance, printable, short_digest, span

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
    for identity in snapshot.identities:
        if identity.suspension is not None:
            text = _suspension_text(identity.suspension, snapshot.now_ms)
            yield Text(f"suspended  {identity.name} {text}", style="red")
    yield Text("")
    total = len(document_policy(snapshot.active.document).identities)
    if not snapshot.identities:
        yield Text(f"none of {counted(total, 'identity')} matches")
        return
    yield _identities(snapshot)
    if (first := next((item for item in snapshot.identities if item.folded), None)) is not None:
        entries, repeats = first.denied_length, first.folded
        text = f"{counted(entries, 'entry')} and {counted(repeats, 'repeat')} of them"
        yield Text(f"denied     {entries}+{repeats} is {text}", style="dim")
    if (count := len(snapshot.identities)) < total:
        yield Text(f"shown      {count} of {total} identities")
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
    tiers = snapshot.tiers
    counts = ", ".join(f"{tier} ({count})" for tier, count in tiers.most_common())
    yield Text(f"tier       {counts if len(tiers) > 1 else next(iter(tiers), '')}")


def _suspension_text(suspension: Suspension, now_ms: int) -> str:
    until_ms = suspension.until_ms
    text = "until `keyleash thaw`"
    if until_ms is not None:
        text = f"until {clock_time(until_ms)} ({distance(until_ms, now_ms)})"
    if suspension.by:
        text += f" by {printable(suspension.by)}"
    return f"{text}: {printable(suspension.reason)}" if suspension.reason else text


def _identities(snapshot: Snapshot) -> RenderableType:
    are_mixed = len(snapshot.tiers) > 1
    columns = [
        Column("identity", fold=True),
        Column("kind"),
        *([Column("tier")] if are_mixed else []),
        Column("state"),
        Column("tokens", "right"),
        Column("oldest"),
        Column("events", "right"),
        Column("denied", "right"),
        Column("recent", "right"),
    ]
    return table(
        columns, (_identity(item, snapshot.now_ms, are_mixed) for item in snapshot.identities)
    )


def _identity(status: IdentityStatus, now_ms: int, with_tier: bool) -> Sequence[str | Text]:
    folded = f"+{status.folded}" if status.folded else ""
    return [
        status.name,
        status.kind,
        *([status.tier] if with_tier else []),
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
    columns = [
        Column("identity", fold=True),
        Column("limit"),
        Column("use"),
        Column("used", "right"),
        Column("allows", fold=True),
        Column("resets"),
    ]
    return table(columns, rows)


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
    columns = [
        Column("identity", fold=True),
        Column("shard"),
        Column("node"),
        Column("limit"),
        Column("granted", "right"),
        Column("unspent", "right"),
        Column("stranded", "right"),
        Column("last grant"),
    ]
    rows = (
        [identity.name, *_lease(shard, limit, snapshot.now_ms)]
        for identity in snapshot.identities
        for shard in identity.shards or ()
        for limit in shard.limits or (None,)
    )
    return table(columns, rows)


def _lease(shard: ShardStatus, limit: LeasedLimit | None, now_ms: int) -> Sequence[str | Text]:
    node = Text(f"{shard.node}, unread", style="red") if shard.reason else Text(shard.node)
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
    columns = [
        Column("identity", fold=True),
        Column(f"denied in the last {span(RECENT_S)}"),
        Column("times", "right"),
        Column("last"),
    ]
    return table(columns, rows)
