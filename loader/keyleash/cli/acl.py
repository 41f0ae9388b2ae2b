"""`keyleash acl`."""

from __future__ import annotations

import click

from keyleash.cli.options import Name, example, with_settings
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, print_note
from keyleash.operator.roles import ROLES


@click.command(epilog=example("keyleash acl issuer | redis-cli"))
@click.argument("role", required=False, type=Name(ROLES))
@click.option("--user", metavar="NAME", help="Name of the ACL user.  [default: keyleash-ROLE]")
@with_settings
def acl(settings: Settings, role: str | None, user: str | None) -> None:
    """Print the ACL rules of a user who can do what ROLE does, and nothing else.

    Without ROLE, lists the roles. Nothing is changed. The line sets all rules of the user and
    leaves its passwords, so give a new user one: `ACL SETUSER NAME ">PASSWORD"`. Print the rules
    again after a load with other key patterns.
    """
    if role is not None:
        found = settings.operator.acl(role, user=user)
        if settings.json:
            print_json(found)
        else:
            click.echo(found.command)
            if found.nodes:
                print_note(f"note: each node of the cluster needs it: {', '.join(found.nodes)}")
    elif settings.json:
        print_json(list(ROLES.values()))
    else:
        print_table(
            columns("role", "", fold={""}), ([item.name, item.summary] for item in ROLES.values())
        )
