"""Render a snapshot as text and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from keyleash.cli.render.table import Column, table
from keyleash.cli.settings import Settings
from keyleash.operator.suspension import Suspension
from keyleash.status import IdentityStatus, LimitUse, Snapshot
from keyleash.status.identities import RECENT_S
from keyleash.store.records import ActivePolicy
from keyleash.text import clock_time, distance, iso_time, printable, short_digest, span

BAR = 10
FULL = ((0.9, "red"), (0.7, "yellow"), (0.0, "green"))
"""From how much of a limit on its bar has that colour."""


def snapshot_parts(settings: Settings, snapshot: Snapshot) -> Iterator[RenderableType]:
    """The lines and tables of a snapshot with a policy, from above."""
    sealed = ", sealed" if snapshot.is_sealed else ""
    yield Text(f"server     {settings.shown_url}{sealed}")
    if snapshot.active is None:
        return
    yield from _head(snapshot, snapshot.active)
    yield from _suspended(snapshot)
    yield Text("")
    yield _identities(snapshot)
    yield Text("")
    yield _limits(snapshot)
    if any(identity.refusals for identity in snapshot.identities):
        yield Text("")
        yield _refusals(snapshot)


def _head(snapshot: Snapshot, active: ActivePolicy) -> Iterator[Text]:
    when = f"{clock_time(active.activated_ms)} ({distance(active.activated_ms, snapshot.now_ms)})"
    yield Text(f"policy     {short_digest(active.digest)}, generation {active.generation}")
    yield Text(f"activated  {when} by {printable(active.actor)}")
    yield Text(f"transport  {active.transport}")
    tiers = snapshot.tiers
    said = ", ".join(f"{tier} ({count})" for tier, count in tiers.most_common())
    yield Text(f"tier       {said if len(tiers) > 1 else next(iter(tiers), '')}")


def _suspended(snapshot: Snapshot) -> Iterator[Text]:
    for identity in snapshot.identities:
        if identity.suspension is not None:
            said = _words(identity.suspension, snapshot.now_ms)
            yield Text(f"suspended  {identity.name} {said}", style="red")


def _words(suspension: Suspension, now_ms: int) -> str:
    until_ms = suspension.until_ms
    said = "until `keyleash thaw`" if until_ms is None else f"until {clock_time(until_ms)}"
    if until_ms is not None:
        said += f" ({distance(until_ms, now_ms)})"
    if suspension.by:
        said += f" by {printable(suspension.by)}"
    return f"{said}: {printable(suspension.reason)}" if suspension.reason else said


def _identities(snapshot: Snapshot) -> RenderableType:
    are_mixed = len(snapshot.tiers) > 1
    columns = [
        Column("identity", fold=True),
        Column("kind"),
        *([Column("tier")] if are_mixed else []),
        Column("state"),
        Column("tokens", "right"),
        Column("oldest"),
        Column("audited", "right"),
        Column("denied", "right"),
        Column("recent", "right"),
    ]
    return table(
        columns,
        (_identity(identity, snapshot.now_ms, are_mixed) for identity in snapshot.identities),
    )


def _identity(
    identity_status: IdentityStatus, now_ms: int, with_tier: bool
) -> Sequence[str | Text]:
    refused = sum(of_code.count for of_code in identity_status.refusals.values())
    return [
        identity_status.name,
        identity_status.kind,
        *([identity_status.tier] if with_tier else []),
        Text(identity_status.word, style="" if identity_status.word == "active" else "red"),
        str(identity_status.tokens.live),
        _oldest(identity_status, now_ms),
        str(identity_status.audit_length),
        f"{identity_status.denied_length}+{identity_status.folded}"
        if identity_status.folded
        else str(identity_status.denied_length),
        Text(str(refused), style="yellow" if refused else ""),
    ]


def _oldest(identity_status: IdentityStatus, now_ms: int) -> Text:
    oldest = identity_status.tokens.oldest
    if oldest is None:
        return Text("-")
    age = span(max(0, now_ms - oldest.issued_ms) // 1000)
    return Text(f"{age}, due" if oldest.is_due else age, style="yellow" if oldest.is_due else "")


def _limits(snapshot: Snapshot) -> RenderableType:
    rows = [
        _limit(identity.name, use, snapshot.now_ms)
        for identity in snapshot.identities
        for use in identity.limits
    ]
    if not rows:
        return Text("no identity has a limit")
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
    used = "-" if use.used is None else f"{use.used}/{use.of}"
    return [identity, use.name, bar(use.share), used, use.allows + per, resets]


def bar(share: float | None) -> Text:
    """How much is used, as a bar: the least use is seen, and only a full one is full."""
    if share is None:
        return Text("")
    filled = min(BAR, -(-int(share * 1000) * BAR // 1000)) if share < 1 else BAR
    if 0 < share < 1:
        filled = min(max(filled, 1), BAR - 1)
    colour = next(colour for bound, colour in FULL if share >= bound)
    return Text("#" * filled, style=colour) + Text("." * (BAR - filled), style="dim")


def _refusals(snapshot: Snapshot) -> RenderableType:
    rows = [
        [identity.name, code, str(of_code.count), distance(of_code.last_ms, snapshot.now_ms)]
        for identity in snapshot.identities
        for code, of_code in sorted(identity.refusals.items(), key=lambda row: -row[1].count)
    ]
    columns = [
        Column("identity", fold=True),
        Column(f"denied in the last {span(RECENT_S)}"),
        Column("times", "right"),
        Column("last"),
    ]
    return table(columns, rows)


def snapshot_as_json(settings: Settings, snapshot: Snapshot) -> dict[str, Any]:
    """All that is shown of a server."""
    return {
        "server": settings.shown_url,
        "at": iso_time(snapshot.now_ms),
        "sealed": snapshot.is_sealed,
        "policy": None if snapshot.active is None else _policy(snapshot.active),
        "refusals_s": RECENT_S,
        "identities": [_identity_as_json(identity) for identity in snapshot.identities],
    }


def _policy(active: ActivePolicy) -> dict[str, Any]:
    return {
        "digest": active.digest,
        "generation": active.generation,
        "transport": active.transport,
        "activated_at": iso_time(active.activated_ms),
        "by": active.actor,
    }


def _identity_as_json(identity_status: IdentityStatus) -> dict[str, Any]:
    oldest, suspension = identity_status.tokens.oldest, identity_status.suspension
    return {
        "name": identity_status.name,
        "kind": identity_status.kind,
        "tier": identity_status.tier,
        "active": identity_status.active,
        "suspended": identity_status.suspended,
        "suspension": None if suspension is None else _suspension(suspension),
        "live_tokens": identity_status.tokens.live,
        "tokens_due": identity_status.tokens.due,
        "oldest_token": None
        if oldest is None
        else {"id": oldest.id, "issued_at": iso_time(oldest.issued_ms), "due": oldest.is_due},
        "events": identity_status.events,
        "audit_length": identity_status.audit_length,
        "denied_length": identity_status.denied_length,
        "denials_folded": identity_status.folded,
        "refusals": [
            {"code": code, "count": of_code.count, "last_at": iso_time(of_code.last_ms)}
            for code, of_code in sorted(identity_status.refusals.items())
        ],
        "limits": [_limit_as_json(use) for use in identity_status.limits],
    }


def _suspension(suspension: Suspension) -> dict[str, Any]:
    since_ms, until_ms = suspension.since_ms, suspension.until_ms
    return {
        "reason": suspension.reason,
        "by": suspension.by,
        "since": None if since_ms is None else iso_time(since_ms),
        "until": None if until_ms is None else iso_time(until_ms),
    }


def _limit_as_json(use: LimitUse) -> dict[str, Any]:
    return {
        "name": use.name,
        "kind": str(use.kind),
        "allows": use.allows,
        "used": use.used,
        "of": use.of,
        "per": use.per,
        "resets_at": None if use.resets_ms is None else iso_time(use.resets_ms),
    }
