"""`keyleash status`: what is active, and how much of each limit is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.identity_status import IdentityStatus, identity_statuses
from keyleash.cli.options import example, json_option
from keyleash.cli.output import Column, print_json, print_table, say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.standing import server_time_ms
from keyleash.cli.text import clock_time, distance, iso_time, printable, short_digest

if TYPE_CHECKING:
    from keyleash.cli.usage import LimitUse
    from keyleash.deploy.suspension import Suspension
    from keyleash.protocol.active import ActivePolicy


@click.command(epilog=example("keyleash status"))
@json_option
@pass_settings
def status(settings: Settings) -> None:
    """Show what is active and how much is used.

    A budget counts its open window, a plain rate the calls of the last period. A rate with a
    burst shows how much of the burst is not free again yet. `audited` and `denied` are the
    lengths of the trails; a command that failed has two entries.
    """
    from keyleash.protocol.active import read_active

    client = settings.client
    active = read_active(client, settings.keyspace)
    now_ms = server_time_ms(client)
    found = [] if active is None else identity_statuses(settings, active, now_ms)
    if settings.json:
        print_json(
            {
                "server": settings.shown_url,
                "sealed": bool(settings.keyspace.vault),
                "policy": None if active is None else _policy_json(active),
                "identities": [_identity_json(one) for one in found],
            }
        )
        return
    sealed = ", sealed" if settings.keyspace.vault else ""
    click.echo(f"server     {settings.shown_url}{sealed}")
    if active is None:
        say("no policy is active")
        say("help: load one with `keyleash load FILE`")
        return
    when = f"{clock_time(active.activated_ms)} ({distance(active.activated_ms, now_ms)})"
    click.echo(f"policy     {short_digest(active.digest)}, generation {active.generation}")
    click.echo(f"activated  {when} by {printable(active.actor)}")
    click.echo(f"transport  {active.transport}")
    click.echo()
    _print_identities(found)
    _print_suspensions(found, now_ms)
    click.echo()
    _print_limits(found, now_ms)


def _print_identities(found: list[IdentityStatus]) -> None:
    print_table(
        [
            Column("identity", fold=True),
            Column("kind"),
            Column("state"),
            Column("live tokens", "right"),
            Column("audited", "right"),
            Column("denied", "right"),
        ],
        (
            [
                one.name,
                one.kind,
                one.word,
                str(one.live_tokens),
                str(one.audit_length),
                str(one.denied_length),
            ]
            for one in found
        ),
    )


def _print_suspensions(found: list[IdentityStatus], now_ms: int) -> None:
    for one in found:
        if one.suspension is not None:
            click.echo(f"`{one.name}` is suspended {_suspended(one.suspension, now_ms)}")


def _suspended(suspension: Suspension, now_ms: int) -> str:
    until_ms = suspension.until_ms
    said = "until `keyleash thaw`" if until_ms is None else f"until {clock_time(until_ms)}"
    if until_ms is not None:
        said += f" ({distance(until_ms, now_ms)})"
    if suspension.by:
        said += f" by {printable(suspension.by)}"
    return f"{said}: {printable(suspension.reason)}" if suspension.reason else said


def _suspension_json(suspension: Suspension) -> dict[str, Any]:
    since_ms, until_ms = suspension.since_ms, suspension.until_ms
    return {
        "reason": suspension.reason,
        "by": suspension.by,
        "since": None if since_ms is None else iso_time(since_ms),
        "until": None if until_ms is None else iso_time(until_ms),
    }


def _print_limits(found: list[IdentityStatus], now_ms: int) -> None:
    rows = [_limit_row(one.name, use, now_ms) for one in found for use in one.limits]
    if not rows:
        click.echo("no identity has a limit")
        return
    print_table(
        [
            Column("identity", fold=True),
            Column("limit"),
            Column("used", "right"),
            Column("of", "right"),
            Column("allows", fold=True),
            Column("resets"),
        ],
        rows,
    )


def _limit_row(identity: str, use: LimitUse, now_ms: int) -> list[str]:
    per = "" if use.per == "identity" else f", each {use.per} apart"
    resets = distance(use.resets_ms, now_ms) if use.resets_ms is not None else ""
    used = "?" if use.used is None else str(use.used)
    return [identity, use.name, used, str(use.of), use.allows + per, resets]


def _policy_json(active: ActivePolicy) -> dict[str, Any]:
    return {
        "digest": active.digest,
        "generation": active.generation,
        "transport": active.transport,
        "activated_at": iso_time(active.activated_ms),
        "by": active.actor,
    }


def _identity_json(one: IdentityStatus) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "active": one.active,
        "suspended": one.suspension is not None,
        "suspension": None if one.suspension is None else _suspension_json(one.suspension),
        "live_tokens": one.live_tokens,
        "audit_length": one.audit_length,
        "denied_length": one.denied_length,
        "limits": [
            {
                "name": use.name,
                "kind": str(use.kind),
                "allows": use.allows,
                "used": use.used,
                "of": use.of,
                "per": use.per,
                "resets_at": None if use.resets_ms is None else iso_time(use.resets_ms),
            }
            for use in one.limits
        ],
    }
