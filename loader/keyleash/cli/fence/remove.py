"""`keyleash fence remove`: take users away."""

from __future__ import annotations

from collections.abc import Sequence

import click

from keyleash.cli.errors import DeclinedError, UsageError
from keyleash.cli.fence.nodes import named_clients, node_option
from keyleash.cli.identity_names import IDENTITY
from keyleash.cli.options import example, json_option, require_consent, yes_option
from keyleash.cli.output import print_json, say
from keyleash.cli.settings import Settings, pass_settings


@click.command(epilog=example("keyleash fence remove agent-runner"))
@click.argument("identities", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)
@click.option("--all", "everything", is_flag=True, help="Every user that keyleash made.")
@node_option
@yes_option
@json_option
@pass_settings
def remove(
    settings: Settings,
    identities: Sequence[str],
    everything: bool,
    nodes: Sequence[str],
    yes: bool,
) -> None:
    """Delete the users of IDENTITY…, which closes their connections.

    Tokens, limits and trails stay, and so does the guard: whoever logs in otherwise and has a
    token may still call it.
    """
    from keyleash.fence import Node, read_records, remove_fences
    from keyleash.fence.rotate import require_fenced

    if bool(identities) == everything:
        raise UsageError("whose users is not said", help="name identities, or give `--all`")
    servers = [Node(name, client) for name, client in named_clients(settings, nodes)]
    records = read_records(settings.client, settings.keyspace)
    for name in identities:
        require_fenced(records, name)
    named = list(dict.fromkeys(identities)) or sorted(records)
    if named:
        say(f"their agents are cut off at once: {', '.join(named)}")
        if not require_consent("delete these users?", yes):
            raise DeclinedError("nothing was deleted")
    with settings.changing("look at `keyleash fence plan`"):
        deleted = remove_fences(servers, settings.keyspace, records, named, actor=settings.actor)
    if settings.json:
        print_json({"removed": [{"server": server, "identity": name} for server, name in deleted]})
    elif deleted:
        for server, name in deleted:
            click.echo(f"`{name}` is deleted from {server}")
    else:
        click.echo("there was no user left to delete")
