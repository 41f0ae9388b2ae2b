"""`keyleash test`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from keyleash.cli.failures import FAILED
from keyleash.cli.load import progress
from keyleash.cli.options import (
    FILE,
    example,
    json_option,
    refuse_typed_password,
    require_consent,
    require_number,
    yes_option,
)
from keyleash.cli.render.test import coverage_lines, failure_lines, report_json, summary
from keyleash.cli.settings import Settings, operator_client, pass_settings, shown_url
from keyleash.cli.terminal import Ended, ended_by_signals, print_json, print_note, read_text
from keyleash.commands import load_table
from keyleash.errors import OperationError
from keyleash.policy_tests.guards import Guards
from keyleash.policy_tests.parse import read_suites
from keyleash.policy_tests.run import Verdict, run_suites
from keyleash.servers import EmbeddedServer
from keyleash.store.server_check import require_supported

if TYPE_CHECKING:
    from keyleash.policy_tests.guards import Guards
    from keyleash.policy_tests.run import TestReport


DISAGREED = 70
"""sysexits.h: an internal error. It is keyleash that is wrong, and not the policy."""


@click.command(epilog=example("keyleash test examples/agents.test.yaml --min-coverage 100"))
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

    Each case asks a model of the guard in Python and the real guard, whose clock moves as the
    case says; both must agree. No policy that is active anywhere is touched. Exits with 1 if a
    case failed or too little was covered, and with 70 if model and guard disagree: a bug of
    keyleash. docs/how-to/test-a-policy.md says what a file holds.
    """
    refuse_typed_password("server", server, "KEYLEASH_TEST_URL")
    try:
        with _guards(None if no_server else server or "", yes, settings.timeout_s) as (
            guards,
            label,
        ):
            report = _run(settings, files, guards)
    except Ended:
        raise KeyboardInterrupt from None
    below = min_coverage is not None and report.percent < min_coverage
    if settings.json:
        print_json(report_json(report, label, min_coverage))
    else:
        _show(report, label, trace, min_coverage)
    return _exit_code(report, below)


def _exit_code(report: TestReport, below: bool) -> int:

    if report.ended(Verdict.DISAGREED):
        return DISAGREED
    return FAILED if below or report.ended(Verdict.FAILED) else 0


def _run(settings: Settings, files: tuple[str, ...], guards: Guards | None) -> TestReport:

    shipped = load_table()
    table = shipped if guards is None else guards.table
    suites = read_suites(files, shipped.extended(table.commands), read_text)
    count = sum(len(suite.cases.cases) for suite in suites)
    with progress("testing", is_wanted=not settings.json) as report:
        played = itertools.count(1)
        return run_suites(suites, table, guards, lambda: report(next(played), count))


@contextmanager
def _guards(
    url: str | None, yes: bool, timeout_s: float | None
) -> Iterator[tuple[Guards | None, str | None]]:
    """Guards on a server of ours if *url* is empty, on nobody's if it is None; and its name."""
    if url is None:
        yield None, None
    elif url:
        label = shown_url(url)
        if not require_consent(f"load policies into the empty database of {label}?", yes):
            raise OperationError("declined", "nothing was tested")
        with ended_by_signals():
            # Only now: while somebody thinks, it need not stay empty.
            client = operator_client(url, timeout_s)
            require_supported(client)
            guards = Guards(client)
            try:
                yield guards, label
            finally:
                guards.release()
    else:
        with ended_by_signals(), EmbeddedServer() as server:
            yield Guards(operator_client(server.url)), "an embedded server"


def _show(report: TestReport, label: str | None, trace: bool, min_coverage: float | None) -> None:

    for played in report.played:
        for line in failure_lines(played, trace=trace):
            click.echo(line)
    for line in coverage_lines(report):
        click.echo(line)
    click.echo(summary(report, label))
    if min_coverage is not None and report.percent < min_coverage:
        print_note(f"error: the coverage is below {min_coverage:g} %")
        print_note("help: add a case for each uncovered pattern above")
