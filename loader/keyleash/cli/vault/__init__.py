"""`keyleash vault`: keys where only guards find them."""

import click

from keyleash.cli.groups import Group
from keyleash.cli.options import example
from keyleash.cli.vault.adoption import adopt, release
from keyleash.cli.vault.changes import rotate, seal, unseal

__all__ = ["vault"]


@click.group(cls=Group, epilog=example("keyleash vault seal --adopt 'agents:*'"))
def vault() -> None:
    """Keep agents' keys under a random prefix that only guards know.

    See docs/sealed.md. Not for Redis Cluster.
    """


for command in (seal, adopt, release, rotate, unseal):
    vault.add_command(command)
