"""`keyleash limits`: start again what limits count."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

from keyleash.cli.options import (
    IDENTITY,
    Group,
    example,
    json_option,
)
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_note
from keyleash.errors import UsageError
from keyleash.operator import reset_limits
from keyleash.policy import Counter
from keyleash.store.state import MAX_REASON_BYTES
from keyleash.text import counted, iso_time


class LimitName(StringParamType):
    """Any text. Whether the identity has such a limit, the reset finds out."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that limits can have and that begin like that."""
        names = (f"{kind}.{counter}" for kind in ("rate", "budget") for counter in Counter)
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


EXAMPLE = 'keyleash limits reset agent-runner --limit rate.writes --reason "the clock was ahead"'


@click.group(cls=Group, epilog=example(EXAMPLE))
def limits() -> None:
    """Reset what rates and budgets have counted.

    `limits: {work}` of a policy bounds each call and counts nothing, so there is nothing to reset.
    """


@limits.command(epilog=example(EXAMPLE))
@click.argument("identity", type=IDENTITY)
@click.option(
    "--limit",
    metavar="NAME",
    type=LimitName(),
    help="One limit, such as `rate.writes` or `budget.requests`.  [default: all of the identity]",
)
@click.option(
    "--reason", required=True, help="Reason, recorded in the audit log; must not hold a secret."
)
@json_option
@pass_settings
def reset(settings: Settings, identity: str, limit: str | None, reason: str) -> None:
    """Reset what the limits of IDENTITY have counted: its next call counts from 0.

    For a counter that is corrupt, or that denies since the server's clock was ahead. A limit per
    token or per captured segment is reset for each of them. Other identities are left alone.
    """
    if not reason.strip():
        raise UsageError("the reason is empty", help="give a reason for the audit log")
    size = len(reason.encode("utf-8", "surrogateescape"))
    if size > MAX_REASON_BYTES:
        raise UsageError(f"a reason has at most {MAX_REASON_BYTES} bytes, this one {size}")
    with settings.changing("see `keyleash audit log --control`"):
        done = reset_limits(
            settings.client,
            identity,
            limit,
            reason=reason,
            actor=settings.actor,
            keyspace=settings.keyspace,
        )
    at = iso_time(done.bound_us // 1000)
    if settings.json:
        print_json(
            {
                "identity": done.identity,
                "limits": list(done.limits),
                "counters": done.counters,
                "bound_at": at,
                "event": done.event,
            }
        )
        return
    click.echo(f"`{done.identity}` reset: {', '.join(done.limits)}")
    if done.counters:
        print_note(f"{counted(done.counters, 'counter')} per token or captured segment deleted")
    print_note(f"effective {at}, control event {done.event}")
