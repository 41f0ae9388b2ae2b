"""`keyleash fence plan`: what would be done to the users, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.fence.options import Asked, asked_options
from keyleash.cli.options import example, json_option
from keyleash.cli.output import print_json, say
from keyleash.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from keyleash.cli.fence.meant import Meant
    from keyleash.fence import Step


@click.command(epilog=example("keyleash fence plan --output acl >> users.acl"))
@asked_options
@click.option(
    "--output",
    type=click.Choice(["acl", "redis-cli"]),
    help="Print the users instead: as lines of an aclfile, or for redis-cli's standard input.",
)
@json_option
@pass_settings
def plan(settings: Settings, /, output: str | None, **options: Any) -> int:
    """Say what `fence apply` would do, and why; nothing is changed.

    FILE must be the active policy, which is also what is meant without it. Exits with 0 if every
    user is as it should be, and with 1 if not.
    """
    from keyleash.cli.fence.meant import needs_work, read_meant
    from keyleash.cli.fence.showing import (
        notes_as_json,
        print_steps,
        say_notes,
        say_off,
        say_opened,
        step_as_json,
    )

    meant = read_meant(settings, Asked(**options))
    steps = meant.steps(settings)
    if output is not None:
        _print_users(meant, steps, output)
        return 0
    due = needs_work(steps)
    if settings.json:
        print_json(
            {
                "changes": due,
                "users": [step_as_json(step) for step in steps],
                "notes": notes_as_json(meant),
            }
        )
        return int(due)
    print_steps(steps)
    say_notes(meant)
    say_off(meant, steps)
    say_opened([(step.node.name, step.identity) for step in steps if step.is_without_digests])
    if not due:
        say("nothing to change")
    return int(due)


def _print_users(meant: Meant, steps: Sequence[Step], output: str) -> None:
    from keyleash.cli.fence.showing import say_notes
    from keyleash.cli.fence.statements import aclfile, redis_cli
    from keyleash.fence import How

    left_out = {step.identity for step in steps if step.how in (How.HELD, How.FOREIGN)}
    kept = [one for one in meant.wanted if one.fence.identity not in left_out]
    click.echo(aclfile(kept) if output == "acl" else redis_cli(kept), nl=False)
    for name in sorted(left_out):
        say(f"note: `{name}` is left out; `keyleash fence plan` says why")
    say_notes(meant)
