"""`keyleash identity`: stop an identity, and let it act again."""

from __future__ import annotations

import click

from keyleash.cli.groups import Group
from keyleash.cli.identity_names import IDENTITY
from keyleash.cli.options import example, json_option
from keyleash.cli.output import print_json
from keyleash.cli.settings import Settings, pass_settings


@click.group(cls=Group, epilog=example("keyleash identity suspend agent-runner"))
def identity() -> None:
    """Suspend an identity, or let it act again."""


@identity.command(epilog=example("keyleash identity suspend agent-runner"))
@click.argument("name", type=IDENTITY)
@json_option
@pass_settings
def suspend(settings: Settings, name: str) -> None:
    """Refuse every call of the identity NAME, from the very next one on.

    Its tokens stay as they are. `keyleash freeze` does the same to several at once, for a time
    and with a reason.
    """
    _set(settings, name, suspended=True)


@identity.command(epilog=example("keyleash identity resume agent-runner"))
@click.argument("name", type=IDENTITY)
@json_option
@pass_settings
def resume(settings: Settings, name: str) -> None:
    """Let the suspended identity NAME act again; the same as `keyleash thaw NAME`."""
    _set(settings, name, suspended=False)


def _set(settings: Settings, name: str, *, suspended: bool) -> None:
    from keyleash.deploy import set_suspended

    client, keyspace = settings.client, settings.keyspace
    with settings.changing("look at `keyleash status`"):
        changed = set_suspended(client, name, suspended, actor=settings.actor, keyspace=keyspace)
    if settings.json:
        print_json({"identity": name, "suspended": suspended, "changed": changed})
    elif suspended:
        said = "is suspended: its calls are refused from now on"
        click.echo(f"`{name}` {said if changed else 'was suspended already'}")
    else:
        said = "may act again"
        click.echo(f"`{name}` {said if changed else 'was not suspended'}")
