"""`keyleash limits` and `keyleash budget`: reset counters, and return unused units."""

from __future__ import annotations

from collections.abc import Iterable

import click

from keyleash.cli.nodes import show_nodes, wait_option
from keyleash.cli.options import IDENTITY, Group, Name, example, json_option
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_note
from keyleash.operator.limit_reset import LimitReset
from keyleash.policy import parse_policy
from keyleash.store.identities import require_active
from keyleash.store.store import Store
from keyleash.text import counted, iso_time


def _limits(store: Store) -> Iterable[str]:
    policy = parse_policy(require_active(store).document, file="<active policy>", commands=None)
    return dict.fromkeys(limit.name for item in policy.identities for limit in item.limits)


EXAMPLE = 'keyleash limits reset agent-runner --limit rate.writes --reason "the clock was ahead"'


@click.group(cls=Group, epilog=example(EXAMPLE))
def limits() -> None:
    """Reset the counters of rate limits and budgets.

    `limits: {work}` of a policy bounds each call and has no counter.
    """


@limits.command(epilog=example(EXAMPLE))
@click.argument("identity", type=IDENTITY)
@click.option(
    "--limit",
    metavar="NAME",
    type=Name(_limits),
    help="One limit, such as `rate.writes` or `budget.requests`.  [default: all of the identity]",
)
@click.option(
    "--reason", required=True, help="Reason, recorded in the audit log; must not hold a secret."
)
@wait_option
@json_option
@pass_settings
def reset(settings: Settings, identity: str, limit: str | None, reason: str, wait: bool) -> int:
    """Reset the counters of IDENTITY; its next call counts from 0.

    Use it for a corrupt counter, or one that denies calls because the server's clock was ahead. A
    limit per token or per captured segment is reset for each of them. Other identities keep theirs.
    """
    with settings.changing("see `keyleash audit log --control`"):
        done = settings.operator.limits.reset(identity, limit, reason=reason)
    if settings.json:
        print_json(done)
    else:
        _show_reset(done)
    return show_nodes(settings, done, wait=wait)


def _show_reset(done: LimitReset) -> None:
    click.echo(f"`{done.identity}` reset: {', '.join(done.limits)}")
    if done.counters:
        print_note(f"{counted(done.counters, 'counter')} per token or captured segment deleted")
    where = "at reached nodes " if done.not_reached else ""
    at = f"{where}{iso_time(done.effective_us // 1000)}"
    print_note(f"effective {at}, control event {done.event}")


@click.group(cls=Group, epilog=example("keyleash budget collect"))
def budget() -> None:
    """Return the units of budgets that nodes of a cluster have not used."""


@budget.command(epilog=example("keyleash budget collect agent-runner"))
@click.argument("identity", type=IDENTITY, required=False)
@json_option
@pass_settings
def collect(settings: Settings, identity: str | None) -> int:
    """Return unused units of budgets from all nodes of a cluster.

    All nodes together hold up to 2 % of a budget for their next calls, shown as `unspent` by
    `keyleash status`, until the budget's window ends. Without IDENTITY, those of all identities are
    returned.
    """
    with settings.changing("look at `keyleash status`"):
        done = settings.operator.limits.collect(identity)
    if settings.json:
        print_json(done)
    else:
        print_table(
            [Column("identity", fold=True), Column("budget"), Column("returned", "right")],
            ([item.identity, item.limit, str(item.units)] for item in done.returned),
        )
    return show_nodes(settings, done, wait=None)
