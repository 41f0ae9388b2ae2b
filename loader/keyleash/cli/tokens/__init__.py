"""`keyleash token`: issue, rotate, list, show and revoke tokens."""

from __future__ import annotations

import click

from keyleash.cli.groups import Group
from keyleash.cli.options import example
from keyleash.cli.tokens.issue import issue
from keyleash.cli.tokens.listing import list_
from keyleash.cli.tokens.revoke import revoke
from keyleash.cli.tokens.rotate import rotate
from keyleash.cli.tokens.show import show


@click.group(cls=Group, epilog=example("keyleash token issue agent-runner --ttl 2h"))
def token() -> None:
    """Issue, rotate, list, show and revoke tokens."""


for command in (issue, rotate, list_, show, revoke):
    token.add_command(command)
