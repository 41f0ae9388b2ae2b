"""`keyleash limits` and `keyleash budget`: reset counters, and return unused units."""

from __future__ import annotations

import click

from keyleash.cli.derive import command
from keyleash.cli.options import Group, example
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_note
from keyleash.operator.credit import CreditCollection, collect_credit
from keyleash.operator.limit_reset import LimitReset, reset_limits
from keyleash.text import counted, iso_time

EXAMPLE = 'keyleash limits reset agent-runner --limit rate.writes --reason "the clock was ahead"'


@click.group(cls=Group, epilog=example(EXAMPLE))
def limits() -> None:
    """Reset the counters of rate limits and budgets.

    `limits: {work}` of a policy bounds each call and has no counter.
    """


@limits.add_command
@command(reset_limits, example=EXAMPLE, advice="see `keyleash audit log --control`", waits=True)
def reset(_settings: Settings, done: LimitReset) -> None:
    """Reset the counters of IDENTITY; its next call counts from 0.

    Use it for a corrupt counter, or one that denies calls because the server's clock was ahead. A
    limit per token or per captured segment is reset for each of them. Other identities keep theirs.
    """
    click.echo(f"`{done.identity}` reset: {', '.join(done.limits)}")
    if done.counters:
        print_note(f"{counted(done.counters, 'counter')} per token or captured segment deleted")
    where = "at reached nodes " if done.not_reached else ""
    at = f"{where}{iso_time(done.effective_us // 1000)}"
    print_note(f"effective {at}, control event {done.event}")


@click.group(cls=Group, epilog=example("keyleash budget collect"))
def budget() -> None:
    """Return the units of budgets that nodes of a cluster have not used."""


@budget.add_command
@command(
    collect_credit,
    example="keyleash budget collect agent-runner",
    advice="look at `keyleash status`",
)
def collect(_settings: Settings, done: CreditCollection) -> None:
    """Return unused units of budgets from all nodes of a cluster.

    All nodes together hold up to 2 % of a budget for their next calls, shown as `unspent` by
    `keyleash status`, until the budget's window ends. Without IDENTITY, those of all identities are
    returned.
    """
    shown = columns("identity", "budget", "returned", right={"returned"}, fold={"identity"})
    print_table(shown, ([item.identity, item.limit, str(item.units)] for item in done.returned))
