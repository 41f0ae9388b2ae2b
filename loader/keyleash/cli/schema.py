"""`keyleash schema`: print the JSON Schema of policy files."""

from __future__ import annotations

import click

from keyleash.api import Policy
from keyleash.cli.options import example, json_option
from keyleash.cli.terminal import print_json


@click.command(epilog=example("keyleash schema > policy.schema.json"))
@json_option
def schema() -> None:
    """Print the JSON Schema of policy files, for editors."""
    print_json(Policy.schema())
