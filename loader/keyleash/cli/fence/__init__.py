"""`keyleash fence`: ACL users for agents, so that none gets around its wrapper."""

from __future__ import annotations

import click

from keyleash.cli.fence.apply import apply
from keyleash.cli.fence.plan import plan
from keyleash.cli.fence.remove import remove
from keyleash.cli.fence.rotate import rotate
from keyleash.cli.groups import Group
from keyleash.cli.options import example


@click.group(cls=Group, epilog=example("keyleash fence apply --mint"))
def fence() -> None:
    """Give each identity an ACL user that may do no more than its policy says.

    Without one, a policy binds those who use the wrapper. docs/fence.md says what a fence stops,
    and what it does not.
    """


for command in (plan, apply, rotate, remove):
    fence.add_command(command)
