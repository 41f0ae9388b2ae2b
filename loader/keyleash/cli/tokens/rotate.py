"""`keyleash token rotate`."""

from __future__ import annotations

import re

import click

from keyleash.cli.identity_names import IDENTITY
from keyleash.cli.options import duration_s, example, json_option
from keyleash.cli.output import say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.standing import active_records, server_time_ms
from keyleash.cli.text import clock_time, iso_time, span
from keyleash.cli.tokens.words import print_issued, require_no_secret, require_note, ttl_option


def _grace_s(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is not None and re.fullmatch("0+[wdhms]?", value):
        return 0
    return duration_s(context, parameter, value)


@click.command(epilog=example("TOKEN=$(keyleash token rotate agent-runner --grace 10m)"))
@click.argument("which", metavar="IDENTITY|ID", type=IDENTITY)
@click.option(
    "--grace",
    metavar="DURATION",
    callback=_grace_s,
    default="10m",
    show_default=True,
    help="How long what is replaced is still good; `0` for not at all.",
)
@ttl_option
@click.option("--note", help="As for `token issue`.  [default: that of the token ID]")
@json_option
@pass_settings
def rotate(settings: Settings, which: str, grace: int, ttl: int | None, note: str | None) -> None:
    """Issue a token in place of every live one of IDENTITY, or of the token ID alone.

    The new token is printed, this once, as `token issue` does. What it replaces is refused as
    expired when the grace is over, and never later than it would have been anyway. Limits are
    the identity's, so nothing that was used comes back; but a limit `per: token` begins anew.
    """
    from keyleash.tokens import rotate_token

    require_no_secret(which)
    require_note(note or "")
    # A name wins over an id that reads alike.
    is_identity = bool(active_records(settings.client, settings.keyspace, [which]))
    is_identity = is_identity or "-" in which
    with settings.changing("look at `keyleash token list`"):
        done = rotate_token(
            settings.client,
            identity=which if is_identity else None,
            token_id=None if is_identity else which,
            grace_s=grace,
            ttl_s=ttl,
            note=note,
            actor=settings.actor,
            keyspace=settings.keyspace,
        )
    replaced = [{"id": id_, "expires_at": iso_time(ends)} for id_, ends in done.replaced]
    print_issued(settings, done.issued, {"replaced": replaced})
    if settings.json:
        return
    now_ms = server_time_ms(settings.client)
    for id_, ends_ms in done.replaced:
        # With no grace that moment is past by now.
        left = round((ends_ms - now_ms) / 1000)
        when = f"in {span(left)}" if left > 0 else "now"
        say(f"it replaces {id_}, which expires {when}, at {clock_time(ends_ms)}")
    if not done.replaced:
        say("there was no live token to replace")
