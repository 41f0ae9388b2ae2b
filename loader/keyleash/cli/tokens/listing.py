"""`keyleash token list`."""

from __future__ import annotations

import click

from keyleash.cli.failures import FAILED
from keyleash.cli.identity_names import IDENTITY
from keyleash.cli.options import example, json_option
from keyleash.cli.output import Column, print_json, print_table, say
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.standing import require_known, server_time_ms
from keyleash.cli.text import counted, distance, printable, span, without_tokens
from keyleash.cli.tokens.words import due_word, token_json, used_word


@click.command("list", epilog=example("keyleash token list --stale || keyleash token rotate …"))
@click.argument("identity", type=IDENTITY, required=False)
@click.option(
    "--stale",
    is_flag=True,
    help="Only what is older than the policy's `rotate_after`; exit 1 if there is any.",
)
@json_option
@pass_settings
def list_(settings: Settings, identity: str | None, stale: bool) -> int:
    """List the tokens of IDENTITY, or of all, newest first.

    A token is listed until a week after it expired. The tokens themselves are not known.
    `rotate` tells when the policy's `rotate_after` is over, or what a token was rotated to.
    """
    from keyleash.tokens import list_tokens

    require_known(settings.client, settings.keyspace, identity)
    found = list_tokens(settings.client, identity, keyspace=settings.keyspace)
    now_ms = server_time_ms(settings.client)
    due = [info for info in found if info.is_due(now_ms)]
    if stale:
        found = due
    if settings.json:
        print_json({"tokens": [token_json(info, now_ms) for info in found]})
    elif found:
        print_table(
            [
                Column("id"),
                Column("identity", fold=True),
                Column("state"),
                Column("age"),
                Column("rotate"),
                Column("expires"),
                Column("used"),
                Column("by", fold=True),
                Column("note", fold=True),
            ],
            (
                [
                    info.id,
                    info.identity,
                    info.state,
                    span((now_ms - info.issued_ms) // 1000),
                    due_word(info, now_ms),
                    distance(info.expires_ms, now_ms),
                    used_word(info, now_ms),
                    printable(info.by),
                    without_tokens(printable(info.note)),
                ]
                for info in found
            ),
        )
    if stale and due:
        say(f"{counted(len(due), 'token')} to rotate: `keyleash token rotate ID`")
        return FAILED
    if not found and not settings.json:
        say("no token is due" if stale else "no tokens")
    return 0
