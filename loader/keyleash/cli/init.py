"""`keyleash init` and `keyleash examples`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from keyleash.cli.options import DIRECTORY, Name, example, with_settings
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, print_note, write_output
from keyleash.errors import OperationError
from keyleash.operator.examples import EXAMPLES, Example, require_example
from keyleash.policy.problems import listing

force_option = click.option("--force", is_flag=True, help="Overwrite files that exist.")


def write_copies(settings: Settings, copied: Example, directory: str, *, force: bool) -> None:
    """Write the files of an example to a directory, created if missing, and print their names.

    Nothing is written if one of them exists, unless *force*.
    """
    folder = Path(directory)
    content = copied.read()
    present = [str(folder / name) for name in content if os.path.lexists(folder / name)]
    if present and not force:
        raise OperationError(
            "file",
            f"{listing(present)} exist{'s' if len(present) == 1 else ''}, and nothing was written",
            help="name another directory, or overwrite with `--force`",
            exit_code=1,
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        write_output(folder / name, data)
    written = [str(folder / name) for name in content]
    if settings.json:
        print_json({"written": written})
    for path in () if settings.json else written:
        click.echo(path)


@click.command(epilog=example("keyleash init"))
@click.argument("directory", metavar="[DIR]", type=DIRECTORY, default=".")
@force_option
@with_settings
def init(settings: Settings, directory: str, force: bool) -> None:
    """Write a first policy, its tests and an example of settings.

    Writes agents.yaml, agents.test.yaml and .env.example to DIR, by default the current directory.
    If one of them exists, nothing is written, unless --force is given.
    """
    write_copies(settings, EXAMPLES["starter"], directory, force=force)
    if not settings.json:
        print_note("next: `keyleash check agents.yaml --strict`, `keyleash test agents.test.yaml`")


@click.command(epilog=example("keyleash examples fleet --to fleet"))
@click.argument("name", required=False, type=Name(EXAMPLES))
@click.option("--to", "directory", metavar="DIR", type=DIRECTORY, help="Copy to DIR.  [default: .]")
@force_option
@with_settings
def examples(settings: Settings, name: str | None, directory: str | None, force: bool) -> None:
    """List the example policies, or copy the policy and tests of NAME.

    If one of the files exists, nothing is written, unless --force is given.
    """
    if name is not None or directory is not None or force:
        write_copies(settings, require_example(name), directory or ".", force=force)
        return
    if settings.json:
        print_json({"examples": {name: item.summary for name, item in EXAMPLES.items()}})
        return
    rows = [[name, item.summary] for name, item in EXAMPLES.items()]
    print_table(columns("name", "content"), rows)
