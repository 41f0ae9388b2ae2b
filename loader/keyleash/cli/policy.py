"""`keyleash policy`."""

from __future__ import annotations

import click

from keyleash.cli.options import Group, example, json_lines_option, with_settings
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_json_line, print_note
from keyleash.text import clock_time, printable, short_digest


@click.group(cls=Group, epilog=example("keyleash policy history"))
def policy() -> None:
    """Show the active policy and its history."""


@policy.command(epilog=example("keyleash policy show --digest 3f9ac2d81b07"))
@click.option("--digest", metavar="DIGEST", help="An earlier policy, by the first digits.")
@with_settings
def show(settings: Settings, digest: str | None) -> None:
    """Print the document of the active policy, as it was loaded.

    `keyleash policy show > agents.yaml` restores a lost file. The texts of scripts are in comments;
    files of scripts must have the same texts.
    """
    shown = settings.operator.policies.get(digest)
    if settings.json:
        print_json({**shown.to_dict(), "document": shown.document})
        return
    print_note(
        f"generation {shown.generation}, digest {short_digest(shown.digest)}, activated"
        f" {clock_time(shown.activated_ms)} by {printable(shown.actor)}"
    )
    click.echo(shown.document, nl=not shown.document.endswith("\n"))


@policy.command(epilog=example("keyleash policy history"))
@json_lines_option
@pass_settings
def history(settings: Settings) -> None:
    """List the stored policies, newest first.

    Each is listed once, with its last activation; `keyleash audit log --control` lists every
    activation. `from` is the policy that it replaced.
    """
    policies = settings.operator.policies
    active, stored = policies.active(), policies.history()
    digest = active.digest if active else None
    if settings.json:
        for item in stored:
            print_json_line({**item.to_dict(), "active": item.digest == digest})
        return
    if not stored:
        print_note("no policy is stored")
        return
    rows = (
        [
            str(item.generation),
            short_digest(item.digest),
            clock_time(item.activated_ms),
            printable(item.actor),
            short_digest(item.before) or "-",
            "active" if item.digest == digest else "",
        ]
        for item in stored
    )
    names = ("generation", "digest", "activated", "by", "from", "")
    print_table(columns(*names, right={"generation"}), rows)
