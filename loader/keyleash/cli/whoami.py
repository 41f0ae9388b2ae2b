"""`keyleash whoami`: the identity, grants and limits of a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from keyleash.cli.exec import as_agent
from keyleash.cli.options import example, require_token, token_option, with_settings
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.settings import Settings
from keyleash.limits.counters import counter_of
from keyleash.text import clock_time, distance

if TYPE_CHECKING:
    from datetime import datetime

    from keyleash.client.whoami import RemainingLimit, WhoAmI
    from keyleash.policy import Grant


@click.command(epilog=example("keyleash whoami --token token-file"))
@token_option
@with_settings
def whoami(settings: Settings, token_file: str | None) -> None:
    """Show the identity, expiry, grants and remaining limits of a token.

    The guard of the identity answers, as it does for the agent: the user of the URL needs no other
    right than the agent's, and a token that has ended gets its denial. Nothing is changed or
    charged.
    """
    found: WhoAmI = as_agent(settings, require_token(token_file), lambda agent: agent.whoami())
    settings.show(found, lambda: _show(found))


def _show(found: WhoAmI) -> None:
    now_ms, expires_ms = _ms(found.now), _ms(found.expires_at)
    click.echo(f"identity  {found.identity}")
    click.echo(f"token     {found.token_id}")
    click.echo(f"expires   {distance(expires_ms, now_ms)}, at {clock_time(expires_ms)}")
    if found.idle_ends_at is not None and found.idle_ends_at < found.expires_at:
        click.echo(
            f"          {distance(_ms(found.idle_ends_at), now_ms)} if it is not used before"
        )
    if found.renewable_until is not None:
        click.echo(f"          renewable until {clock_time(_ms(found.renewable_until))}")
    for name, text in found.restrictions.lines() if found.restrictions else ():
        # Caps are in the table of limits.
        if name != "cap":
            click.echo(f"{name:<10}{text}")
    if found.grants is None:
        click.echo("grants    hidden: the policy has `token: {publish_grants: false}`")
    else:
        _show_rules("may", [_grant_line(grant) for grant in found.grants] or ["nothing"])
        _show_rules("may not", [key.source for key in found.deny or ()])
    if found.limits:
        click.echo()
        rows = (_limit_row(item, now_ms) for item in found.limits)
        names = ("limit", "left", "allows", "resets")
        print_table(columns(*names, right={"left"}, fold={"allows"}), rows)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _show_rules(label: str, rules: list[str]) -> None:
    for number, rule in enumerate(rules):
        click.echo(f"{'' if number else label:<10}{rule}")


def _grant_line(grant: Grant) -> str:
    narrowed = f", only {', '.join(grant.only)}" if grant.only is not None else ""
    narrowed += f", except {', '.join(grant.except_)}" if grant.except_ else ""
    keys = [key.source for key in grant.keys]
    channels = [f"channel {channel.source}" for channel in grant.channels]
    indexes = [f"index {index.source}" for index in grant.indexes]
    scripts = [f"script {script.name}" for script in grant.scripts]
    classes = ", ".join(grant.allow) or "commands without a class"
    return f"{classes}: {' '.join([*keys, *channels, *indexes, *scripts])}{narrowed}"


def _limit_row(item: RemainingLimit, now_ms: int) -> list[str]:
    resets = item.resets_at and distance(_ms(item.resets_at), now_ms)
    each = ", each captured segment apart" if item.left is None else ""
    left = "?" if item.left is None else counter_of(item.name).rounded(item.left)
    return [item.name, left, item.allows + each, resets or ""]
