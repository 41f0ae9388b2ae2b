"""`keyleash check`: is this policy file right?"""

from __future__ import annotations

import click

from keyleash.cli.documents import read_policy
from keyleash.cli.failures import problem_as_json, warn
from keyleash.cli.options import example, json_option
from keyleash.cli.output import print_json
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.text import counted


@click.command(epilog=example("keyleash check examples/agents.yaml"))
@click.argument("file")
@json_option
@pass_settings
def check(settings: Settings, file: str) -> None:
    """Check a policy file.

    Reports every problem of FILE, each with its place. No server is needed: commands are those
    of the servers that keyleash knows, and `load` asks the one that it loads on. Warns of what
    has no effect on any. `-` reads standard input.
    """
    document = read_policy(file)
    identities = document.policy.identities
    if settings.json:
        print_json(
            {
                "file": document.file,
                "digest": document.digest,
                "servers": list(document.servers),
                "identities": [{"name": one.name, "kind": one.kind} for one in identities],
                "warnings": [problem_as_json(one) for one in document.policy.warnings],
            }
        )
        return
    warn(document.policy.warnings)
    names = ", ".join(one.name for one in identities)
    click.echo(f"{document.file} is valid")
    click.echo(f"{counted(len(identities), 'identity')}: {names}")
    click.echo(f"checked for {', '.join(document.servers)}")
