"""`keyleash acl`."""

from __future__ import annotations

import click

from keyleash.cli.options import Name, example, with_settings
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, print_note
from keyleash.operator.roles import AGENT, ROLES


@click.command(epilog=example("keyleash acl issuer | redis-cli"))
@click.argument("role", required=False, type=Name((*ROLES, AGENT)))
@click.argument("identity", required=False)
@click.option("--user", metavar="NAME", help="Its name.  [default: keyleash-ROLE or -IDENTITY]")
@with_settings
def acl(settings: Settings, role: str | None, identity: str | None, user: str | None) -> None:
    """Print the ACL rules of a user with a role of operators, or of an agent.

    Without ROLE, lists the roles. `agent IDENTITY` prints the user of a trusted agent that calls
    its guard without the gateway. Nothing is changed. The line sets all rules of the user and
    leaves its passwords, so give a new user one: `ACL SETUSER NAME ">PASSWORD"`.
    """
    if role is not None:
        printed = settings.operator.acl(role, identity, user=user)
        if settings.json:
            print_json(printed)
        else:
            click.echo(printed.command)
            if printed.nodes:
                print_note(f"note: each node of the cluster needs it: {', '.join(printed.nodes)}")
    elif settings.json:
        print_json(list(ROLES.values()))
    else:
        rows = ([item.name, item.summary] for item in ROLES.values())
        print_table(columns("role", "", fold={""}), rows)
