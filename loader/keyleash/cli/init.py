"""`keyleash init` and `keyleash examples`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from keyleash.cli.options import DIRECTORY, example, json_option
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_note, write_output
from keyleash.errors import OperationError, UsageError
from keyleash.policy.problems import did_you_mean, listing
from keyleash.store.scripts import shipped

SCHEMA_LINE = b"# yaml-language-server:"
"""Names the schema in a checkout, so copies omit it."""


@dataclass(frozen=True, slots=True)
class Example:
    """A shipped example.

    Attributes:
        summary: Its content in a phrase.
        files: The name of each copy, and of its source in `examples/`.
    """

    summary: str
    files: Mapping[str, str]

    def read(self) -> dict[str, bytes]:
        """Return the content of each copy."""
        root = shipped("examples")
        texts = {name: (root / source).read_bytes() for name, source in self.files.items()}
        return {
            name: text.partition(b"\n")[2] if text.startswith(SCHEMA_LINE) else text
            for name, text in texts.items()
        }


EXAMPLES = {
    "starter": Example(
        "one job runner: a grant, a rate, a budget",
        {
            "agents.yaml": "starter.yaml",
            "agents.test.yaml": "starter.test.yaml",
            ".env.example": "starter.env",
        },
    ),
    "fleet": Example(
        "three agents and an admin: defaults, deny rules, token rules, time zones",
        {"agents.yaml": "agents.yaml", "agents.test.yaml": "agents.test.yaml"},
    ),
}

force_option = click.option("--force", is_flag=True, help="Overwrite files that exist.")


def write_copies(settings: Settings, copied: Example, directory: str, *, force: bool) -> None:
    """
    Write the files of an example to a directory, created if missing, and print their names.

    Raises:
        OperationError (file): A file exists, and not *force*: nothing is written. Or the file is
            no regular file.
        OSError: A file cannot be written.
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
@json_option
@pass_settings
def init(settings: Settings, directory: str, force: bool) -> None:
    """Write a first policy, its tests and an example of settings.

    Writes agents.yaml, agents.test.yaml and .env.example to DIR, by default the current directory.
    If one of them exists, nothing is written, unless --force is given.
    """
    write_copies(settings, EXAMPLES["starter"], directory, force=force)
    if not settings.json:
        print_note("next: `keyleash check agents.yaml --strict`, `keyleash test agents.test.yaml`")


@click.command(epilog=example("keyleash examples fleet --to fleet"))
@click.argument("name", required=False)
@click.option("--to", "directory", metavar="DIR", type=DIRECTORY, help="Copy to DIR.  [default: .]")
@force_option
@json_option
@pass_settings
def examples(settings: Settings, name: str | None, directory: str | None, force: bool) -> None:
    """List the example policies, or copy the policy and tests of NAME.

    If one of the files exists, nothing is written, unless --force is given.
    """
    if name in EXAMPLES:
        write_copies(settings, EXAMPLES[name], directory or ".", force=force)
        return
    known = f"examples are {', '.join(EXAMPLES)}"
    if name is not None:
        raise UsageError(f"there is no example `{name}`", help=did_you_mean(name, EXAMPLES, known))
    if directory is not None or force:
        raise UsageError("specify which example to copy", help=known)
    if settings.json:
        print_json({"examples": {name: item.summary for name, item in EXAMPLES.items()}})
        return
    print_table(
        [Column("name"), Column("content")],
        [[name, item.summary] for name, item in EXAMPLES.items()],
    )
