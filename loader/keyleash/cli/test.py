"""`keyleash test`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import click

from keyleash.addons.policy_tests.parse import Suite
from keyleash.addons.policy_tests.run import CaseOutcome, TestReport, Verdict
from keyleash.api import Policy
from keyleash.cli.options import (
    FILE,
    example,
    reading,
    refuse_typed_password,
    require_consent,
    with_settings,
    yes_option,
)
from keyleash.cli.progress import progress
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import Ended, ended_by_signals, print_json, print_note, read_text
from keyleash.commands.facts import INDEXES
from keyleash.errors.operations import FAILED
from keyleash.evaluate.decision_text import step_lines
from keyleash.evaluate.trace import Decision
from keyleash.store.connect import shown_url
from keyleash.text import clock_time, counted, printable, without_tokens


def _number(value: float) -> float:
    """Reject `nan`, which no range excludes."""
    if math.isnan(value):
        raise ValueError("it must be a number")
    return value


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
    callback=reading(_number),
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


def failure_lines(suite: Suite, outcome: CaseOutcome, *, trace: bool) -> Iterator[str]:
    """Yield a line for a case that did not pass, and with *trace* the steps of the decision."""
    if outcome.verdict is Verdict.PASSED:
        return
    step, case = outcome.step, outcome.case
    call = without_tokens(" ".join(printable(word) for word in step.argv))
    number = f" (call {outcome.number} of {step.times})" if step.times > 1 else ""
    name = f"{printable(case.name)}: " if case.name else ""
    model = _decision_text(outcome.decided)
    difference = f"expected {step.expected}, got {model}"
    if outcome.decided.is_open:
        difference += "; what keys hold decides, and only a guard knows that: see `--server`"
    if outcome.verdict is Verdict.DISAGREED and outcome.guard is not None:
        guard = _decision_text(outcome.guard)
        difference = f"MODEL AND GUARD DISAGREE: model {model}, guard {guard}"
    place = f"{step.span.file}:{step.span.line}"
    yield f"{place}: {name}{case.identity}: {call}{number}: {difference}"
    if trace:
        yield f"    at {clock_time(step.at_us // 1000)}"
        for line in step_lines(outcome.decided, suite.document.splitlines()):
            yield f"    {without_tokens(line)}"


def _decision_text(decision: Decision) -> str:
    """Return a decision as a case of the file expects it: the code, and details."""
    details = (f"{name}={printable(value)}" for name, value in decision.details.items())
    return "allow" if decision.code is None else without_tokens(" ".join([decision.code, *details]))


def coverage_lines(report: TestReport) -> Iterator[str]:
    """Yield a line for each pattern that decided no call."""
    for coverage in report.coverages:
        for item in coverage.uncovered:
            place = f"{item.pattern.span}: " if item.pattern.span is not None else ""
            pattern = printable(item.pattern.source)
            yield f"{place}note: no case covers the {item.kind} of `{pattern}` of {item.identity}"


def summary(report: TestReport) -> str:
    """Return the number of passed and failed cases, and the coverage, on one line."""
    parts = [f"{counted(report.count(Verdict.PASSED), 'case')} passed"]
    if report.invariants:
        holding = sum(not broken for _, broken in report.invariants)
        verb = "holds" if holding == 1 else "hold"
        parts.append(f"{holding} of {counted(len(report.invariants), 'invariant')} {verb}")
    if failed := report.count(Verdict.FAILED):
        parts.append(f"{failed} failed")
    if disagreed := report.count(Verdict.DISAGREED):
        parts.append(f"{disagreed} with a disagreement: please report it")
    alone = [outcome.case for _, outcome in report.outcomes if outcome.guard is None]
    names = {step.argv[0].decode("latin-1") for case in alone for step in case.steps}
    notes = ["searches need `--server` and the module Search"] if names & INDEXES.keys() else []
    where = "the model only"
    if report.server and len(alone) < len(report.outcomes):
        where = f"the model and {report.server}"
        notes[:0] = [f"{len(alone)} on the model only"] if alone else []
    where += f" ({'; '.join(notes)})" if notes else ""
    patterns = f"{report.covered} of {counted(report.total, 'pattern')}"
    return f"{', '.join(parts)}, on {where}; coverage {report.percent:.0f} % ({patterns})"
