"""`keyleash test`."""

from __future__ import annotations

import click

from keyleash.api import Policy
from keyleash.cli.failures import FAILED
from keyleash.cli.options import (
    FILE,
    example,
    refuse_typed_password,
    require_consent,
    require_number,
    with_settings,
    yes_option,
)
from keyleash.cli.progress import progress
from keyleash.cli.render.test import coverage_lines, failure_lines, summary
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import Ended, ended_by_signals, print_json, print_note, read_text
from keyleash.policy_tests.run import Verdict
from keyleash.store.connect import shown_url
from keyleash.text import without_tokens

DISAGREED = 70
"""The exit code for an internal error (sysexits.h): a bug of keyleash."""


@click.command(epilog=example("keyleash test agents.test.yaml --min-coverage 100"))
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@click.option(
    "--server",
    metavar="URL",
    envvar="KEYLEASH_TEST_URL",
    show_envvar=True,
    help="Load the policies into this server's database, which must be empty. A URL with a "
    "password is taken from the variable alone.  [default: an embedded server]",
)
@click.option("--no-server", is_flag=True, help="Use the model only.")
@click.option("--trace", is_flag=True, help="Show every step of the decision at a failed case.")
@click.option(
    "--min-coverage",
    type=click.FloatRange(0, 100),
    callback=require_number,
    metavar="PERCENT",
    help="Fail if a smaller share of the patterns of grants and denies decided a call.",
)
@yes_option
@with_settings
def test(
    settings: Settings,
    files: tuple[str, ...],
    server: str | None,
    no_server: bool,
    trace: bool,
    min_coverage: float | None,
    yes: bool,
) -> int:
    """Run the unit tests of policies in FILEs.

    Each case runs on a model of the guard in Python and on the real guard, under a simulated
    clock; both must agree. Invariants are decided for all keys. Active policies are not touched.
    Exits with 1 if a case failed, an invariant is broken or the coverage is too low, and with 70 if
    model and guard disagree, which is a bug of keyleash. docs/how-to/test-a-policy.md describes the
    files.
    """
    refuse_typed_password("server", server, "KEYLEASH_TEST_URL")
    if server and not no_server:
        question = f"load policies into the empty database of {shown_url(server)}?"
        require_consent(question, yes, "nothing was tested")
    try:
        with ended_by_signals(), progress("testing", is_wanted=not settings.json) as show:
            report = Policy.run_tests(
                *files,
                server=None if no_server else server or "",
                timeout=settings.timeout_s,
                min_coverage=min_coverage,
                progress=show,
                read=read_text,
            )
    except Ended:
        raise KeyboardInterrupt from None
    if settings.json:
        print_json(report)
    else:
        for outcome in report.outcomes:
            for line in failure_lines(*outcome, trace=trace):
                click.echo(line)
        for problem in report.broken:
            click.echo(without_tokens(str(problem)))
        for line in coverage_lines(report):
            click.echo(line)
        click.echo(summary(report))
        if report.is_below:
            print_note(f"error: the coverage is below {min_coverage:g} %")
            print_note("help: add a case for each uncovered pattern above")
    if report.count(Verdict.DISAGREED):
        return DISAGREED
    return FAILED if report.is_below or report.broken or report.count(Verdict.FAILED) else 0
