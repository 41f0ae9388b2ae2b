"""`keyleash token show`."""

from __future__ import annotations

import click

from keyleash.cli.options import example, json_option
from keyleash.cli.output import print_json
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.standing import server_time_ms
from keyleash.cli.text import clock_time, distance, printable, without_tokens
from keyleash.cli.tokens.words import require_no_secret, token_json


@click.command(epilog=example("keyleash token show 7k2mq9xw4tbn"))
@click.argument("token_id", metavar="ID")
@json_option
@pass_settings
def show(settings: Settings, token_id: str) -> None:
    """Show what is known of the token ID: its state, its life, and how it was used.

    `last used` is exact to a minute, or to a second where the policy has an idle time. `uses`
    are the calls that the audit trail still has of it: what only read is in there if the policy
    records reads. `refused` are the calls that came after it was revoked.
    """
    from keyleash.audit.token_use import recorded_calls, refused_as_revoked
    from keyleash.tokens import require_token

    require_no_secret(token_id)
    client, keyspace = settings.client, settings.keyspace
    info = require_token(client, token_id, keyspace=keyspace)
    uses = recorded_calls(client, keyspace, info.identity, token_id)
    refused = refused_as_revoked(client, keyspace, [info.identity])[token_id]
    now_ms = server_time_ms(client)
    if settings.json:
        counts = {"recorded_uses": uses, "refused_as_revoked": refused}
        print_json({**token_json(info, now_ms), **counts})
        return

    def moment(time_ms: int) -> str:
        return f"{clock_time(time_ms)} ({distance(time_ms, now_ms)})"

    rows = [
        ("token", info.id),
        ("identity", info.identity),
        ("state", str(info.state)),
        ("issued", f"{moment(info.issued_ms)} by {printable(info.by)}"),
        ("note", without_tokens(printable(info.note))),
        ("expires", moment(info.expires_ms)),
        ("rotated to", info.replaced_by),
        ("rotate", "" if info.due_ms is None else moment(info.due_ms)),
        ("last used", "never" if info.used_ms is None else moment(min(info.used_ms, now_ms))),
        ("uses", f"{uses} recorded"),
        ("refused", f"{refused} since it was revoked" if refused else ""),
    ]
    for name, said in rows:
        if said:
            click.echo(f"{name:<12}{said}")
