"""`keyleash schema` and `keyleash completion`: print files for editors and shells."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from keyleash.api import Policy
from keyleash.cli.options import example, json_option
from keyleash.cli.terminal import print_json


@click.command(epilog=example("keyleash schema > policy.schema.json"))
@json_option
def schema() -> None:
    """Print the JSON Schema of policy files, for editors."""
    print_json(Policy.schema())


@click.command(epilog=example('eval "$(keyleash completion bash)"'))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - click has these three
    root = context.find_root().command
    click.echo(made(root, {}, "keyleash", "_KEYLEASH_COMPLETE").source(), nl=False)
