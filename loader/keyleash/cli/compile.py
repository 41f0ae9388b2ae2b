"""`keyleash compile`, `schema` and `completion`: scripts, and files for editors and shells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

from keyleash.api import Policy
from keyleash.cli.options import DIRECTORY, FILE, example, json_option, with_settings
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, print_note, read_policy, write_output
from keyleash.text import counted

if TYPE_CHECKING:
    from keyleash.compiler import CompiledGuard


@click.command("compile", epilog=example("keyleash compile agents.yaml -o build"))
@click.argument("file", type=FILE)
@click.option(
    "-o", "--output", metavar="DIR", type=DIRECTORY, help="Write each guard to DIR/<identity>.lua."
)
@click.option(
    "--identity", metavar="NAME", help="Only this identity; without -o, print its script."
)
@with_settings
def compile_(settings: Settings, file: str, output: str | None, identity: str | None) -> None:
    """Compile a policy file into Lua scripts.

    FILE becomes one guard per identity. Lists identity, digest and size. The digest is the
    SHA-1 of the script, as sha1sum and SCRIPT LOAD give it. No server is needed. `-` reads
    standard input.
    """
    guards = read_policy(file).compile(identity)
    paths = _written(guards, Path(output)) if output is not None else {}
    if settings.json:
        shows_script = identity is not None and output is None
        print_json({"guards": [_as_json(guard, paths, shows_script) for guard in guards]})
    elif identity is not None and output is None:
        # As bytes: it must keep its digest.
        click.echo(guards[0].script.encode("ascii"), nl=False)
    else:
        rows = [[guard.identity, guard.digest, str(len(guard.script))] for guard in guards]
        print_table(columns("identity", "digest", "bytes", right={"bytes"}), rows)
        if paths:
            print_note(f"{counted(len(paths), 'script')} written to `{output}`")


def _written(guards: Sequence[CompiledGuard], directory: Path) -> dict[str, Path]:
    directory.mkdir(parents=True, exist_ok=True)
    paths = {guard.identity: directory / f"{guard.identity}.lua" for guard in guards}
    for guard in guards:
        write_output(paths[guard.identity], guard.script.encode("ascii"))
    return paths


def _as_json(guard: CompiledGuard, paths: dict[str, Path], shows_script: bool) -> dict[str, Any]:
    path = paths.get(guard.identity)
    return {
        **guard.to_dict(),
        "file": str(path) if path else None,
        **({"script": guard.script} if shows_script else {}),
    }


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
