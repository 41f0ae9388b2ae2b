"""`keyleash token issue`."""

from __future__ import annotations

import click

from keyleash.cli.identity_names import IDENTITY
from keyleash.cli.options import example, json_option
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.tokens.words import print_issued, require_note, ttl_option


@click.command(epilog=example("TOKEN=$(keyleash token issue agent-runner --ttl 2h)"))
@click.argument("identity", type=IDENTITY)
@ttl_option
@click.option("--note", default="", help="What it is for, as `token list` shows it; no secret.")
@json_option
@pass_settings
def issue(settings: Settings, identity: str, ttl: int | None, note: str) -> None:
    """Issue a token for IDENTITY and print it, this once.

    The token alone goes to standard output; its id and expiry go to standard error. Redis
    keeps only a hash, so a token that is lost cannot be shown again: revoke it by its id.
    """
    from keyleash.tokens import issue_token

    require_note(note)
    client, keyspace, actor = settings.client, settings.keyspace, settings.actor
    with settings.changing(f"look at `keyleash token list {identity}`"):
        issued = issue_token(client, identity, ttl_s=ttl, note=note, actor=actor, keyspace=keyspace)
    print_issued(settings, issued)
