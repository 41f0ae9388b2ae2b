"""`keyleash check`: validate and lint a policy file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import click

from keyleash.cli.failures import warn
from keyleash.cli.options import FILE, example, with_settings
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, read_policy
from keyleash.errors import PolicyError, Problem, UsageError, WarningsError
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.text import counted, printable, without_tokens

_DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = {**_DATA, ":": "%3A", ",": "%2C"}
"""Characters that workflow commands escape, in the text and in properties."""


def annotation(level: Literal["warning", "error"], problem: Problem) -> str:
    """Return a problem as a workflow command of GitHub, which expects relative file names."""
    place = {
        "file": printable(problem.span.file),
        "line": str(problem.span.line),
        "col": str(problem.span.column),
        "title": problem.code,
    }
    properties = ",".join(f"{name}={_escaped(value, _PROPERTY)}" for name, value in place.items())
    text = without_tokens(f"{problem.message}\nhelp: {problem.help}")
    return f"::{level} {properties}::{_escaped(text, _DATA)}"


def _escaped(text: str, escapes: dict[str, str]) -> str:
    return "".join(escapes.get(char, char) for char in text)


@click.command(epilog=example("keyleash check agents.yaml --strict"))
@click.argument("file", type=FILE)
@click.option("--strict", is_flag=True, help="Fail if there is any warning.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "github"]),
    default="text",
    help="`github` annotates pull requests as well.",
)
@with_settings
def check(settings: Settings, file: str, strict: bool, format_: str) -> None:
    """Validate and lint a policy file.

    Reports every problem of FILE, each with its place. No server is needed: commands are those
    of all supported servers; `load` checks them on its server. Warns of valid rules that are
    probably mistakes: see docs/reference/lint.md. An `accept` in FILE accepts a finding, with
    a reason. `-` reads standard input.
    """
    annotated = format_ == "github"
    if annotated and settings.json:
        raise UsageError("`--json` and `--format github` exclude each other", help="use one")
    try:
        found = read_policy(file).check()
    except PolicyError as error:
        if annotated:
            _annotate(error.problems, as_errors=True)
        raise
    if annotated:
        _annotate(found.warnings, as_errors=strict)
    if strict and found.warnings:
        raise WarningsError(found.warnings)
    if settings.json:
        print_json(found)
        return
    warn(found.warnings)
    names = listing((identity.name for identity in found.identities), SHOWN_IDENTITIES)
    click.echo(f"{printable(found.file)} is valid")
    click.echo(f"{counted(len(found.identities), 'identity')}: {names}")
    if found.accepted:
        codes = ", ".join(f"{item.problem.code} of {item.identity}" for item in found.accepted)
        click.echo(f"{counted(len(found.accepted), 'warning')} accepted: {codes}")
    click.echo(f"checked for {', '.join(found.servers)}")


def _annotate(problems: Sequence[Problem], *, as_errors: bool) -> None:
    for problem in problems:
        click.echo(annotation("error" if as_errors else "warning", problem))
