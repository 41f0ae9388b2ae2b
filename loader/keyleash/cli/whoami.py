"""`keyleash whoami`: the identity, grants and limits of a token."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

import click

from keyleash.cli.options import example, json_option, require_token, token_option
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json
from keyleash.limits.counters import counter_of
from keyleash.text import clock_time, distance, printable, span, without_tokens

if TYPE_CHECKING:
    from keyleash.client.whoami import RemainingLimit
    from keyleash.evaluate.trace import Decision
    from keyleash.operator.holder import TokenHolder
    from keyleash.policy import Grant, Limit


@click.command(epilog=example("keyleash whoami --token token-file"))
@token_option
@json_option
@pass_settings
def whoami(settings: Settings, token_file: str | None) -> None:
    """Show the identity, expiry, grants and remaining limits of a token.

    Nothing is changed or charged. The user of the URL must be allowed to run GET, HGET, HGETALL and
    TIME on keyleash's own keys. The ACL user of a fenced agent does not have these rights.
    """
    found = settings.operator.tokens.inspect(require_token(token_file))
    if settings.json:
        print_json(found)
    else:
        _show(found)


def _show(found: TokenHolder) -> None:
    age = ""
    if found.issued_ms is not None:
        age = f", {span((found.now_ms - found.issued_ms) // 1000)} old"
    expires = f"{distance(found.expires_ms, found.now_ms)}, at {clock_time(found.expires_ms)}"
    click.echo(f"identity  {found.identity.name} ({found.identity.kind})")
    click.echo(f"token     {found.token.id}{age}")
    click.echo(f"expires   {expires}")
    idle_ms = found.idle_ends_ms
    if idle_ms is not None and idle_ms < found.expires_ms:
        click.echo(f"          {distance(idle_ms, found.now_ms)} if it is not used before")
    if found.renewable_ms is not None:
        click.echo(f"          renewable until {clock_time(found.renewable_ms)}")
    if found.stopped is not None:
        click.echo(f"stopped   every call is denied: {_stop_text(found, found.stopped)}")
    for name, text in found.restrictions.lines() if found.restrictions else ():
        # Caps are in the table of limits.
        if name != "cap":
            click.echo(f"{name:<10}{text}")
    # The restrictions above narrow the grants of the identity.
    who = "identity " if found.restrictions else ""
    _show_rules(f"{who}may", [_grant_line(grant) for grant in found.identity.grants])
    _show_rules(
        f"{who}may not", [" ".join(key.source for key in deny.keys) for deny in found.identity.deny]
    )
    if found.limits:
        click.echo()
        columns = [Column("limit"), Column("left", "right"), Column("allows", fold=True)]
        # The token's own caps come behind the limits of the identity.
        pairs = zip_longest(found.identity.limits, found.limits)
        rows = (_limit_row(*pair, found.now_ms) for pair in pairs)
        print_table([*columns, Column("resets")], rows)


def _stop_text(found: TokenHolder, stopped: Decision) -> str:
    """Return the code and, of a suspension, its end and reason."""
    text, until = str(stopped.code), found.suspended_until_ms
    if until is not None:
        text += f" until {clock_time(until)} ({distance(until, found.now_ms)})"
    reason = stopped.details.get("reason")
    return text if reason is None else f"{text}: {without_tokens(printable(reason))}"


def _show_rules(label: str, rules: list[str]) -> None:
    width = max(10, len(label) + 2)
    for number, rule in enumerate(rules):
        click.echo(f"{'' if number else label:<{width}}{rule}")


def _grant_line(grant: Grant) -> str:
    narrowed = f", only {', '.join(grant.only)}" if grant.only is not None else ""
    narrowed += f", except {', '.join(grant.except_)}" if grant.except_ else ""
    keys = [key.source for key in grant.keys]
    channels = [f"channel {channel.source}" for channel in grant.channels]
    indexes = [f"index {index.source}" for index in grant.indexes]
    return f"{', '.join(grant.allow)}: {' '.join([*keys, *channels, *indexes])}{narrowed}"


def _limit_row(limit: Limit | None, item: RemainingLimit, now_ms: int) -> list[str]:
    resets = item.resets_at and distance(round(item.resets_at.timestamp() * 1000), now_ms)
    each = f", each {limit.subject} apart" if limit and limit.subject.capture else ""
    each += ", of an ancestor" if item.per == "ancestor" else ""
    left = "?" if item.left is None else counter_of(item.name).rounded(item.left)
    return [item.name, left, item.allows + each, resets or ""]
