"""`keyleash plan`."""

from __future__ import annotations

from typing import Any

import click

from keyleash.cli.backtest import (
    UNDECIDED,
    allow_undecided_option,
    backtest_lines,
    gate,
    run_backtest,
)
from keyleash.cli.failures import warn
from keyleash.cli.load import print_plan
from keyleash.cli.options import (
    FILE,
    allow_unvalidated_restore_option,
    example,
    full_option,
    moment,
    with_settings,
)
from keyleash.cli.progress import progress
from keyleash.cli.settings import Settings
from keyleash.cli.target import describe_target
from keyleash.cli.terminal import print_json, read_policy

CHANGES = 2
"""The exit code for changes with `--exit-code`."""


@click.command(epilog=example("keyleash plan agents.yaml"))
@click.argument("file", type=FILE)
@click.option(
    "--exit-code", is_flag=True, help="Exit with 2 if anything changes, 0 if not, 1 on any error."
)
@allow_unvalidated_restore_option
@full_option
@click.option(
    "--backtest",
    "since",
    metavar="DURATION",
    callback=moment,
    help="Also decide the recorded calls since `7d` ago: see `keyleash backtest`. Exits with 1 if"
    " an allowed call is denied, and with 3 if one is undecided, that the active policy allows.",
)
@allow_undecided_option
@with_settings
def plan(
    settings: Settings,
    file: str,
    exit_code: bool,
    allow_unvalidated_restore: bool,
    full: bool,
    since: Any,
    allow_undecided: float,
) -> int:
    """Show what loading a policy file would change (read-only).

    Compares FILE with the active policy, identity by identity: rules that are added (+), removed
    (-) or changed (~), and calls that become allowed or denied. A rule marked `widens` contributes
    to new access. Identities with the same changes are shown together, and more than 50 different
    changes as a summary. Rejects FILE if it allows RESTORE and the server does not validate its
    payloads, as `keyleash load` does. `-` reads standard input.
    """
    policy = read_policy(file)
    with progress("compiling", is_wanted=not settings.json) as report:
        plan = settings.operator.plan(
            policy,
            # Eviction is decided at the load, so here it is a warning.
            allow_eviction=True,
            allow_unvalidated_restore=allow_unvalidated_restore,
            progress=report,
        )
    options = {"since": since, "relative": True}
    tested = None if since is None else run_backtest(settings, policy, options)
    warnings = plan.prepared.warnings
    if settings.json:
        members = {"server": settings.shown_url, "file": policy.file, **plan.to_dict()}
        print_json({**members, "warnings": warnings, **({"backtest": tested} if tested else {})})
    else:
        warn(warnings)
        print_plan(describe_target(settings), plan, full=full)
        if tested is not None:
            click.echo("\n".join(["", *backtest_lines(tested, "" if full else "--full")]))
    # Without calls, nothing is worse than by the active policy, and nothing was decided.
    code = gate(tested, allow_undecided, 0 if allow_undecided else UNDECIDED) if tested else 0
    return code or (CHANGES if exit_code and not plan.is_empty else 0)
