"""`keyleash learn`: a policy of what recorded calls needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keyleash.api import Operator
from keyleash.cli.derive import options_of
from keyleash.cli.options import (
    FILE,
    as_duration,
    example,
    require_consent,
    with_settings,
    yes_option,
)
from keyleash.cli.progress import progress
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_json, print_note, write_output
from keyleash.errors import OperationError, UsageError
from keyleash.text import counted, printable

_COST = (
    "MONITOR copies every command of every client: it may halve what the server does meanwhile, and"
    " the file will have the values that clients write. Capture for {seconds:.0f} seconds?"
)


@click.command(epilog=example("keyleash learn agent-runner --since 7d -o learned.yaml"))
@options_of(Operator.learn, "identities since until archive monitor least")
@click.option("-o", "--output", metavar="FILE", type=FILE, help="The policy, or the capture.")
@click.option(
    "--capture",
    metavar="DURATION",
    callback=as_duration,
    help="Write a capture of MONITOR to FILE instead, for --monitor.",
)
@yes_option
@with_settings
def learn(
    settings: Settings,
    identities: tuple[str, ...],
    output: str | None,
    capture: Any,
    yes: bool,
    **options: Any,
) -> None:
    """Write a policy that allows what IDENTITY, or each identity, was recorded to do.

    Reads the audit log, an archive or a capture. Key segments that vary become captures: ids from
    five values on, words from twenty. Each line has its calls as a comment, and a class that fewer
    than --min calls of a pattern need is a comment. Limits are twice what was usual. Writes FILE
    and its tests, `*.test.yaml`; existing files are not overwritten. Nothing is loaded.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if capture and (identities or given.keys() - {"least"}):
        raise UsageError("`--capture` takes no identity, no time and no other source")
    if capture is not None:
        _capture(settings, output, capture.total_seconds(), yes=yes)
    else:
        is_offline = {"archive", "monitor"} & given.keys()
        operator = settings.unconnected() if is_offline else settings.operator
        with progress("reading", is_wanted=not settings.json) as report:
            learned = operator.learn(*identities, **given, progress=report)
        if settings.json:
            print_json(learned)
            return
        for question in learned.questions:
            print_note(f"question: {printable(question)}")
        every = (rule for identity in learned.identities for rule in identity.rules)
        rare = sum(rule.is_rare and not rule.doubt for rule in every)
        if rare:
            shown = f"{counted(rare, 'rule')} that fewer than {learned.least} calls need"
            print_note(f"comments in the policy: {shown}; uncomment what is rare by its nature")
        name = Path(output).name if output else "learned.yaml"
        _write(output, learned.files(name))


def _write(output: str | None, files: dict[str, str]) -> None:
    """Write files beside each other, or print the first."""
    if output is None:
        click.echo(next(iter(files.values())), nl=False)
        return
    paths = {Path(output).with_name(name): text for name, text in files.items()}
    first, *_ = paths
    paths = {Path(output) if path == first else path: text for path, text in paths.items()}
    contents = {
        path: text.encode("latin-1" if path.suffix == ".lua" else "utf-8")
        for path, text in paths.items()
    }
    for path in paths:
        is_same = path.suffix == ".lua" and path.exists() and path.read_bytes() == contents[path]
        if path.exists() and not is_same:
            help_text = "name a new file, in another folder if it is a script"
            raise OperationError("file", f"`{path}` exists", help=help_text, exit_code=1)
    for path, content in contents.items():
        # The names of keys may be personal data.
        write_output(path, content, 0o600)
        click.echo(path)
    print_note(f"next: `keyleash check {output}`, `keyleash plan {output}`; nothing was loaded")


def _capture(settings: Settings, output: str | None, seconds: float, *, yes: bool) -> None:
    if output is None:
        raise UsageError("`--capture` needs a file", help="add `-o capture.txt`")
    require_consent(_COST.format(seconds=seconds), yes, "nothing was captured")
    with progress("capturing", is_wanted=not settings.json) as report:
        lines = settings.operator.capture(output, duration=f"{seconds:.0f}s", progress=report)
    if settings.json:
        print_json({"file": output, "calls": lines})
        return
    then = f"next: `keyleash learn --monitor {output} -o learned.yaml`"
    print_note(f"{counted(lines, 'call')}; {then if lines else 'no client sent a command'}")
