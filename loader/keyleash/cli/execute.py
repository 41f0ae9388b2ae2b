"""`keyleash exec`: run one command as the holder of a token."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import click

from keyleash.cli.credentials import require_token, token_option
from keyleash.cli.options import example, json_option
from keyleash.cli.output import is_terminal, print_json
from keyleash.cli.settings import Settings, pass_settings
from keyleash.protocol.reply import reading_reply


@click.command(
    "exec",
    context_settings={"allow_interspersed_args": False},
    epilog=example("keyleash exec --token token-file GET agents:jobs:42:state"),
)
@token_option
@click.option("--correlation", metavar="ID", help="The correlation id of the audit event.")
@json_option
@click.argument("words", metavar="COMMAND [ARGS]...", nargs=-1, required=True)
@pass_settings
def exec_(
    settings: Settings, token_file: str | None, correlation: str | None, words: tuple[str, ...]
) -> None:
    """Run a command as the holder of a token.

    The guard of the token's identity judges COMMAND. On a terminal the reply looks as in
    redis-cli; piped, it is the bare value.
    """
    from keyleash.cli import replies
    from keyleash.errors import NotReplicatedError

    short: NotReplicatedError | None = None
    try:
        reply = _reply(settings, require_token(token_file), correlation, words)
    except NotReplicatedError as error:
        # It was done, so its reply is of interest; but there is one JSON document at most.
        if settings.json:
            raise
        reply, short = error.reply, error
    if settings.json:
        print_json(replies.as_json(reply))
    elif is_terminal():
        click.echo(replies.formatted(reply))
    else:
        click.echo(replies.raw(reply))
    if short is not None:
        raise short


def _reply(settings: Settings, token: str, correlation: str | None, words: tuple[str, ...]) -> Any:
    import keyleash
    from keyleash.cli.server import connection_pool

    client = keyleash.Redis(
        connection_pool=connection_pool(settings.url, settings.timeout_s), token=token
    )
    # The reply as the server gave it, and not as redis-py likes to make it.
    client.response_callbacks.clear()
    name, *arguments = words
    given_id = keyleash.correlation(correlation) if correlation is not None else nullcontext()
    with client, given_id, reading_reply("the call of the guard"):
        return client.execute_command(
            os.fsencode(name).decode("utf-8", "replace"), *map(os.fsencode, arguments)
        )
