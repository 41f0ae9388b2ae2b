"""`keyleash status`: what is active, and how much of each limit is used."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.options import example, json_option
from keyleash.cli.output import Column, print_json, print_table, say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.standing import server_time_ms
from keyleash.cli.text import clock_time, distance, iso_time, printable, short_digest

if TYPE_CHECKING:
    from keyleash.cli.usage import LimitUse
    from keyleash.protocol.active import ActivePolicy
    from keyleash.protocol.state import State


@dataclass(frozen=True)
class IdentityStatus:
    """
    One identity of the active policy, as it stands.

    Attributes:
        active: Whether it has its state; without one every call is refused.
        audit_length: Events in its trail.
        denied_length: Refusals that are kept.
    """

    name: str
    kind: str
    active: bool
    suspended: bool
    live_tokens: int
    audit_length: int
    denied_length: int
    limits: list[LimitUse]

    @property
    def word(self) -> str:
        """Its state in a word."""
        if not self.active:
            return "NO STATE"
        return "SUSPENDED" if self.suspended else "active"


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
    found = [] if active is None else _identities(settings, active, now_ms)
    if settings.json:
        print_json(
            {
                "server": settings.shown_url,
                "policy": None if active is None else _policy_json(active),
                "identities": [_identity_json(one) for one in found],
            }
        )
        return
    click.echo(f"server     {settings.shown_url}")
    if active is None:
        say("no policy is active")
        say("help: load one with `keyleash load FILE`")
        return
    when = f"{clock_time(active.activated_ms)} ({distance(active.activated_ms, now_ms)})"
    click.echo(f"policy     {short_digest(active.digest)}, generation {active.generation}")
    click.echo(f"activated  {when} by {printable(active.actor)}")
    click.echo()
    _print_identities(found)
    click.echo()
    _print_limits(found, now_ms)


def _identities(settings: Settings, active: ActivePolicy, now_ms: int) -> list[IdentityStatus]:
    from keyleash.cli.usage import limit_uses
    from keyleash.policy import parse_policy
    from keyleash.tokens import TokenState, list_tokens

    client, keyspace = settings.client, settings.keyspace
    policy = parse_policy(active.document, file="<active policy>", commands=None)
    live = Counter(
        info.identity
        for info in list_tokens(client, keyspace=keyspace)
        if info.state is TokenState.LIVE
    )
    layouts = client.hgetall(keyspace.layouts)
    with client.pipeline(transaction=False) as pipe:
        for identity in policy.identities:
            pipe.get(keyspace.state(identity.name))
            pipe.xlen(keyspace.audit(identity.name))
            pipe.xlen(keyspace.denied(identity.name))
        replies = iter(pipe.execute())
    found = []
    for identity in policy.identities:
        state = _state(next(replies), layouts.get(identity.name.encode()))
        found.append(
            IdentityStatus(
                name=identity.name,
                kind=str(identity.kind),
                active=state is not None,
                suspended=state is not None and state.suspended,
                live_tokens=live[identity.name],
                audit_length=next(replies),
                denied_length=next(replies),
                limits=limit_uses(identity, state, now_ms * 1000),
            )
        )
    return found


def _state(packed: bytes | None, layout: bytes | None) -> State | None:
    from keyleash.protocol.state import Layout, unpack_state

    if packed is None or layout is None:
        return None
    try:
        return unpack_state(packed, Layout.from_json(layout))
    except struct.error:
        # Shorter than its layout: somebody wrote to it. The guard fails on it as well.
        return None


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
        "activated_at": iso_time(active.activated_ms),
        "by": active.actor,
    }


def _identity_json(one: IdentityStatus) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "active": one.active,
        "suspended": one.suspended,
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
