"""`keyleash scripts`: approve the scripts of a library, and list refused ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from keyleash.audit.refused_scripts import refused_scripts
from keyleash.cli.derive import options_of
from keyleash.cli.nodes import MissingNodes
from keyleash.cli.options import DIRECTORY, Group, example, with_settings
from keyleash.cli.progress import waiting
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, print_note, write_output
from keyleash.policy.problems import listing
from keyleash.policy.script_files import FoundScript, find_scripts
from keyleash.text import clock_time, counted, json_object, printable


@click.group(cls=Group, epilog=example("keyleash scripts pending"))
def scripts() -> None:
    """Approve the scripts of a library; list refused ones."""


@scripts.command(epilog=example("keyleash scripts approve node_modules/bullmq -o lua"))
@click.argument("folder", metavar="DIR", type=DIRECTORY)
@click.option(
    "-o", "--output", metavar="DIR", type=DIRECTORY, help="Write each text to DIR/<name>.lua."
)
@with_settings
def approve(settings: Settings, folder: str, output: str | None) -> int:
    """Print the part of a policy that approves the Lua scripts in DIR.

    Finds `*.lua` files, and scripts in the sources of libraries that have bundles. Comments have
    the SHA-1 of each script, its commands, and those that no policy allows. Nothing is loaded, and
    no code of DIR runs. Paths in the output are relative to the current folder. Without `-o`
    scripts in sources are listed as comments. Exit code 1 if a script cannot be approved.
    """
    found = find_scripts(Path(folder))
    able = [script for script in found if not script.problem]
    paths = {script.name: script.place for script in able if script.is_file}
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
        paths = {script.name: str(Path(output) / f"{script.name}.lua") for script in able}
        for script in able:
            write_output(Path(paths[script.name]), script.source.encode("latin-1"))
    if settings.json:
        rows = [{**json_object(item), "file": paths.get(item.name)} for item in found]
        print_json({"scripts": rows})
        return int(len(able) < len(found))
    click.echo("\n".join(_fragment(found, paths)))
    known = sorted({script.bundle for script in found})
    for count, what in (
        (len(able) if output else 0, f"written to `{output}`"),
        (len(able) - len(paths), "in sources: `-o DIR` writes the texts that a policy needs"),
        (len(found) - len(able), "not approved: see the comments"),
        (len(found) if all(known) else 0, f"of bundles that a grant may name: {listing(known)}"),
    ):
        if count:
            print_note(f"{counted(count, 'script')} {what}")
    return int(len(able) < len(found))


def _fragment(found: Sequence[FoundScript], paths: Mapping[str, str]) -> Iterator[str]:
    yield "scripts:"
    for script in found:
        place, path = printable(script.place), paths.get(script.name)
        if script.problem:
            yield f"  # {place} cannot be approved: {printable(script.problem)}"
            continue
        commands = [*script.commands, *["others, by computed names"] * script.computes_names]
        yield f"  # {script.digest}: {printable(', '.join(commands)) or 'no command'}"
        yield from (f"  # no policy allows {printable(call)}" for call in script.denied)
        if path is None:
            yield f"  # {script.name}: in {place}"
        else:
            shown = path if re.fullmatch(r"[\w./@+-]+", path) else json.dumps(path)
            yield f"  {script.name}: {{file: {shown}}}"
    if paths:
        yield f"# In a grant: scripts: [{', '.join(paths)}]"


@scripts.command(epilog=example("keyleash scripts pending agent-runner --since 1d"))
@options_of(refused_scripts, "identities since until")
@with_settings
def pending(settings: Settings, identities: tuple[str, ...], **times: str | None) -> int:
    """List the scripts of denied calls that no grant approves, with the last call of each.

    Those that the active policy approves are left out. Texts are not recorded: `keyleash scripts
    approve DIR` prints the digests of the scripts in the folder of a library. Exit code 1 if a node
    of a cluster does not answer, whose denials are left out.
    """
    missing = MissingNodes()
    with waiting(settings):
        read = settings.operator.audit.refused_scripts
        found = read(*identities, on_missing=missing.note, **times)
    if settings.json:
        print_json(found)
        return missing.exit_code
    names = ("script", "identity", "denied", "first", "last", "token", "correlation", "bundle")
    rows = (
        [
            *(script.digest, script.identity, str(script.calls)),
            *(clock_time(script.first_ms), clock_time(script.last_ms)),
            *(script.token, printable(script.correlation), script.bundle or "-"),
        ]
        for script in found.scripts
    )
    if found.scripts:
        print_table(columns(*names), rows)
    else:
        print_note("no refused scripts")
    if found.unnamed:
        print_note(f"{counted(found.unnamed, 'more denied call')} may be of further scripts")
    return missing.exit_code
