"""`keyleash test`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from keyleash.cli.failures import FAILED
from keyleash.cli.options import (
    FILE,
    example,
    json_option,
    refuse_typed_password,
    require_consent,
    require_number,
    yes_option,
)
from keyleash.cli.progress import progress
from keyleash.cli.render.test import coverage_lines, failure_lines, report_json, summary
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import Ended, ended_by_signals, print_json, print_note, read_text
from keyleash.commands import load_table
from keyleash.errors import OperationError
from keyleash.policy_tests.guards import Guards
from keyleash.policy_tests.parse import read_suites
from keyleash.policy_tests.run import Verdict, run_suites
from keyleash.servers import EmbeddedServer
from keyleash.store.connect import connect, shown_url
from keyleash.store.server_check import require_supported

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
@json_option
@pass_settings
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
    clock; both must agree. Active policies are not touched. Exits with 1 if a case failed or the
    coverage is too low, and with 70 if model and guard disagree, which is a bug of keyleash.
    docs/how-to/test-a-policy.md describes the files.
    """
    refuse_typed_password("server", server, "KEYLEASH_TEST_URL")
    try:
        with _guards(None if no_server else server or "", yes, settings.timeout_s) as (
            guards,
            label,
        ):
            shipped = load_table()
            table = shipped if guards is None else guards.table
            suites = read_suites(files, shipped.extended(table.commands), read_text)
            with progress("testing", is_wanted=not settings.json) as show:
                report = run_suites(suites, table, guards, show)
    except Ended:
        raise KeyboardInterrupt from None
    is_below = min_coverage is not None and report.percent < min_coverage
    if settings.json:
        print_json(report_json(report, label, min_coverage))
    else:
        for outcome in report.outcomes:
            for line in failure_lines(*outcome, trace=trace):
                click.echo(line)
        for line in coverage_lines(report):
            click.echo(line)
        click.echo(summary(report, label))
        if is_below:
            print_note(f"error: the coverage is below {min_coverage:g} %")
            print_note("help: add a case for each uncovered pattern above")
    if report.count(Verdict.DISAGREED):
        return DISAGREED
    return FAILED if is_below or report.count(Verdict.FAILED) else 0


@contextmanager
def _guards(
    url: str | None, yes: bool, timeout_s: float | None
) -> Iterator[tuple[Guards | None, str | None]]:
    """Yield guards and the server's name: an embedded one if *url* is empty, none if it is None."""
    if url is None:
        yield None, None
    elif url:
        label = shown_url(url)
        if not require_consent(f"load policies into the empty database of {label}?", yes):
            raise OperationError("declined", "nothing was tested")
        with ended_by_signals():
            # After the answer: the database may have changed in the meantime.
            client = connect(url, timeout_s)
            require_supported(client)
            guards = Guards(client)
            try:
                yield guards, label
            finally:
                guards.release()
    else:
        with ended_by_signals(), EmbeddedServer() as server:
            yield Guards(connect(server.url)), "an embedded server"
